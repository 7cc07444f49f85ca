"""Fields in which two configs differ."""

from dataclasses import dataclass, field, replace

from dalle_jax.config.differences import differences


@dataclass(frozen=True)
class Small:
    size: int = 1


@dataclass(frozen=True)
class Large:
    size: int = 1


@dataclass(frozen=True)
class Outer:
    name: str = "a"
    width: int = 2
    inner: Small | Large = field(default_factory=Small)


def test_each_field_that_differs_is_named_with_both_values():
    other = Outer("b", 2, Small(3))
    assert list(differences("model", Outer(), other)) == [
        "model.name: expected 'a', got 'b'",
        "model.inner.size: expected 1, got 3",
    ]
    assert list(differences("model", other, other)) == []


def test_a_different_choice_is_named_whole():
    assert list(differences("model", Outer(), Outer(inner=Large()))) == ["model.inner: expected @Small, got @Large"]


def test_free_fields_may_differ_at_any_depth():
    other = Outer("b", 3, Small(3))
    assert list(differences("model", Outer(), other, ("size", "width"))) == ["model.name: expected 'a', got 'b'"]
    assert list(differences("model", replace(other, name="a"), Outer(), ("size", "width"))) == []
