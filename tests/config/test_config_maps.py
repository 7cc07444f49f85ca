from dataclasses import dataclass, field
from typing import Any

import pytest
from example_runs import MAPS, Constant, Cosine, Measure, Mesh, Mixed, Model, Part
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.config import renamed
from dalle_jax.config.bind import load, loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.renamed import Renamed
from dalle_jax.config.render import render
from dalle_jax.config.schema import kind


def mixed(text: str = MAPS, *sets: str) -> Mixed:
    return loads(text, Mixed, "x.gin", sets)


def errors(text: str, *sets: str, root: Any = Mixed) -> list[str]:
    with pytest.raises(UserError) as caught:
        loads(text, root, "x.gin", sets)
    return str(caught.value).splitlines()


def test_a_map_holds_entries_of_a_union_of_one_class_and_of_leaves():
    run = mixed()
    assert run.schedules == {"b": Cosine(0.5), "a": Constant(0.25)}
    assert run.parts == {"x": Part(Model(8))}
    assert run.needs == {"clip": "runs/clip"}
    assert run.meshes == {"small": Mesh(2, 3), "large": Mesh(4, 5)}


def test_entries_keep_the_order_of_first_mention_after_the_default_entries():
    later = "schedules.b.warmup = 3\nschedules.c = @Constant\nschedules.c.rate = 1.0\nmeshes.new.data = 6\n"
    run = mixed(MAPS + later + "meshes.small.tensor = 9\n")
    assert list(run.schedules) == ["b", "a", "c"]
    assert list(run.meshes.items()) == [("small", Mesh(2, 9)), ("large", Mesh(4, 5)), ("new", Mesh(6))]


def test_an_inherited_entry_is_changed_or_removed_by_a_file_that_includes_it(tmp_path):
    (tmp_path / "base.gin").write_text(MAPS)
    changes = "schedules.a = None\nschedules.b = @Constant\nparts.x = None\nneeds.clip = None\nmeshes.small = None\n"
    (tmp_path / "mine.gin").write_text("include 'base.gin'\n" + changes)
    run: Mixed = load(tmp_path / "mine.gin", Mixed)
    assert run == Mixed(schedules={"b": Constant(0.5)}, meshes={"large": Mesh(4, 5)})


def test_a_removed_entry_can_be_added_again():
    run = mixed(MAPS + "schedules.a = None\nschedules.a = @Cosine\nschedules.a.rate = 2.0\n")
    assert run.schedules == {"b": Cosine(0.5), "a": Cosine(2.0)}


def test_an_empty_map_removes_all_entries_before_it_and_their_settings():
    run = mixed(
        MAPS + "schedules = {}\nmeshes = {}\nschedules.a = @Cosine\nschedules.a.rate = 2.0\nmeshes.b.data = 1\n"
    )
    assert run.schedules == {"a": Cosine(2.0)}
    assert run.meshes == {"b": Mesh(1)}
    assert mixed(MAPS + "schedules = {}\n").schedules == {}


def test_set_arguments_add_change_and_remove_entries():
    sets = ("schedules.b=None", "schedules.a=Cosine", "needs.clip=runs/other", "needs.prior=p", "meshes={}")
    run = mixed(MAPS, *sets, "parts.x.weight=3", "parts.y.model.width=2")
    assert run.schedules == {"a": Cosine(0.25)}
    assert run.needs == {"clip": "runs/other", "prior": "p"}
    assert run.parts == {"x": Part(Model(8), 3.0), "y": Part(Model(2))}
    assert run.meshes == {}


def test_macros_give_variants_and_values_of_entries():
    text = MAPS + "KIND = @Cosine\nRATE = 3.0\nschedules.c = %KIND\nschedules.c.rate = %RATE\n"
    assert mixed(text).schedules["c"] == Cosine(3.0)


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("schedules.a.rat = 1.0", "schedules.a.rat: no such name; did you mean schedules.a.rate?"),
        ("scheduled.a.rate = 1.0", "scheduled.a.rate: no such name; did you mean schedules.a.rate?"),
        (
            "schedules.a = @Cosin",
            "schedules.a: expected @Constant or @Cosine or None, got @Cosin; did you mean Cosine?",
        ),
        ("schedules.a.rate = 'x'", "schedules.a.rate: expected a float, got 'x'"),
        (
            "schedules = {'a': 1}",
            "schedules: expected schedules.NAME = @Constant or @Cosine, or schedules = {}, which removes all entries, "
            "got {'a': 1}",
        ),
        ("schedules = None", "schedules: expected schedules.NAME = @Constant or @Cosine, or"),
        (
            "schedules.aa.rate = 1.0",
            "schedules.aa is not chosen; expected schedules.aa = @Constant or @Cosine or None",
        ),
        (
            "schedules.c = @Constant",
            "schedules.c.rate is missing; expected schedules.c.rate = a float",
        ),
        ("parts.x2.weight = 1.0", "parts.x2.model.width is missing; expected parts.x2.model.width = an int"),
        ("parts.x.model.heads = 3", "parts.x.model (Model): width 8 is not a multiple of heads 3"),
        ("needs.clip = 3", "needs.clip: expected a str or None, got 3"),
        ("needs.clip.folder = 'x'", "needs.clip.folder: needs.clip is a str or None and has no fields"),
        ("meshes.smal = None", "meshes.smal = None: there is no such entry to remove; did you mean meshes.small?"),
        ("needs.x = None", "needs.x = None: there is no such entry to remove"),
    ],
)
def test_an_error_in_a_map_names_its_line_and_the_expected_and_actual_value(line: str, error: str):
    (found,) = errors(MAPS + line + "\n")
    assert found.startswith(f"x.gin:{MAPS.count(chr(10)) + 1}: {error}")


def test_a_misspelt_name_that_makes_a_new_entry_gets_a_hint():
    text = MAPS + "schedules.warm = @Constant\nschedules.warm.rate = 1.0\nschedules.wram.rate = 2.0\n"
    assert errors(text) == [
        "x.gin:10: schedules.wram is not chosen; expected schedules.wram = @Constant or @Cosine or None"
        "; did you mean schedules.warm?"
    ]


def test_a_binding_below_a_removed_entry_is_an_error():
    assert errors(MAPS + "parts.x = None\nparts.x.weight = 2.0\n") == [
        "x.gin:9: parts.x.weight: parts.x is None and has no fields; choose a variant with parts.x = @Part"
    ]


def test_entries_removed_by_an_empty_map_are_still_checked():
    assert errors(MAPS + "parts.x.wait = 1.0\nparts = {}\n") == [
        "x.gin:8: parts.x.wait = 1.0 fits no entry of parts, which is @Part"
    ]


def test_a_required_map_without_entries_is_missing():
    assert errors("") == ["x.gin:1: schedules is missing; expected schedules.NAME = @Constant or @Cosine"]


def test_all_errors_of_a_map_are_reported_together():
    text = MAPS + "schedules.c = @Constant\nparts.x.model.width = 'w'\nneeds.clip = 3\nmeshes.small.dat = 1\n"
    assert errors(text, "schedules.b.warmup=x") == [
        "x.gin:8: schedules.c.rate is missing; expected schedules.c.rate = a float",
        "x.gin:9: parts.x.model.width: expected an int, got 'w'",
        "x.gin:10: needs.clip: expected a str or None, got 3",
        "x.gin:11: meshes.small.dat: no such name; did you mean meshes.small.data?",
        "--set schedules.b.warmup=x: schedules.b.warmup: expected an int, got x",
    ]


def test_a_map_is_written_entry_by_entry():
    assert render(mixed(MAPS + "meshes.large = None\n")).splitlines() == [
        "run = @Mixed",
        "needs.clip = 'runs/clip'",
        "meshes = {}",
        "",
        "schedules.b = @Cosine",
        "schedules.b.rate = 0.5",
        "schedules.b.warmup = 10",
        "",
        "schedules.a = @Constant",
        "schedules.a.rate = 0.25",
        "",
        "parts.x = @Part",
        "parts.x.weight = 1.0",
        "",
        "parts.x.model.width = 8",
        "parts.x.model.heads = 2",
        "parts.x.model.dtype = 'float32'",
        "",
        "meshes.small = @Mesh",
        "meshes.small.data = 2",
        "meshes.small.tensor = 3",
    ]


NAMES = st.from_regex(r"[A-Za-z_]\w*", fullmatch=True)
FLOATS = st.floats(allow_nan=False, allow_infinity=False)
INTS = st.integers(-(2**63) + 1, 2**63 - 1)


def maps(values: Any) -> Any:
    return st.dictionaries(NAMES, values, max_size=3)


RUNS = st.builds(
    Mixed,
    maps(st.builds(Constant, FLOATS) | st.builds(Cosine, FLOATS, INTS)),
    maps(st.builds(Part, st.builds(Model, st.integers(0, 9).map(lambda n: 2 * n)), FLOATS)),
    maps(st.text(max_size=5)),
    maps(st.builds(Mesh, INTS, INTS)) | st.just({"small": Mesh(2, 3), "large": Mesh(4, 5)}),
)


@dataclass(frozen=True)
class Outer:
    """A default object whose map has entries that its class does not have."""

    inner: Mixed = field(default_factory=lambda: Mixed({"a": Constant(1.0)}, needs={"clip": "c"}))


@settings(max_examples=60, deadline=None)
@given(RUNS)
def test_rendered_maps_parse_back_to_equal_entries_in_the_same_order(run: Mixed):
    for value in (run, Outer(run)):
        text = render(value)
        again = loads(text, type(value))
        assert again == value
        assert render(again) == text


def test_a_name_that_is_not_an_identifier_cannot_be_written():
    with pytest.raises(ValueError, match="needs: expected names of letters, digits and underscores, got 'a b'"):
        render(Mixed({}, needs={"a b": "c"}))


@pytest.mark.parametrize(
    "annotation",
    [dict[int, str], dict[str, str | None], dict[str, Mesh | None], dict[str, dict[str, int]], dict[str, set[int]]],
)
def test_a_map_of_other_keys_or_of_values_that_may_be_none_is_a_type_error(annotation: Any):
    with pytest.raises(TypeError, match=r"Odd\.names: "):
        kind(annotation, "Odd.names")


@pytest.fixture
def renames(monkeypatch):
    table = {
        "Mixed.first": Renamed("parts.NAME.model", "its weight is parts.NAME.weight"),
        "Mixed.mesh.size": Renamed("meshes.NAME.data"),
        "Mixed.skip": Renamed(None, "every part is used"),
        "@Steady": Renamed("Constant"),
        "@Wild": Renamed(None),
    }
    monkeypatch.setattr(renamed, "RENAMED", table)


@pytest.mark.usefixtures("renames")
@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("first.width = 3", "first.width is now parts.NAME.model.width; its weight is parts.NAME.weight"),
        ("mesh.size = 3", "mesh.size is now meshes.NAME.data"),
        ("skip = True", "skip: this field no longer exists; remove it; every part is used"),
        (
            "schedules.a = @Steady",
            "schedules.a: expected @Constant or @Cosine or None, got @Steady; @Steady is now @Constant",
        ),
        (
            "schedules.a = @Wild",
            "schedules.a: expected @Constant or @Cosine or None, got @Wild; @Wild no longer exists",
        ),
        ("mesh.other = 3", "mesh.other: no such name; did you mean meshes?"),
    ],
)
def test_an_old_name_gets_one_line_with_the_present_name(line: str, error: str):
    assert errors(MAPS + line + "\n") == [f"x.gin:8: {error}"]


def test_an_old_name_is_not_also_reported_as_missing(monkeypatch):
    monkeypatch.setattr(renamed, "RENAMED", {"Mixed.rates": Renamed("schedules"), "Measure.path": Renamed("folder")})
    assert errors("rates.a = @Constant\n") == ["x.gin:1: rates.a is now schedules.a"]
    assert errors("path = 'x'\n", root=Measure) == ["x.gin:1: path is now folder"]
    assert errors("inner.rates.a = 1\n", root=Outer) == ["x.gin:1: inner.rates.a is now inner.schedules.a"]
