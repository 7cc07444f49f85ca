import pytest

from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.records import Record


def record(*captions, **metadata):
    return Record(key="1", image=b"", captions=captions or ("a dog",), metadata=metadata)


def test_without_limits_every_record_is_kept():
    assert Filters().failed_filter(record()) is None
    assert Filters().failed_size_filter(1, 10_000) is None
    assert Filters().keep_captions(("x", " ", "", "y" * 10_000)) == ("x", "y" * 10_000)


@pytest.mark.parametrize(
    ("limit", "field", "passes", "fails"),
    [
        ({"min_similarity": 0.3}, "similarity", (0.3, 0.31, "0.4", 1), (0.29, "0.2", -1)),
        ({"min_aesthetic": 5.0}, "aesthetic", (5, 5.0, 9.1), (4.99, 0)),
        ({"max_punsafe": 0.1}, "punsafe", (0.1, 0, "0.05"), (0.11, 1)),
        ({"max_pwatermark": 0.8}, "pwatermark", (0.8, 0.0), (0.81, "0.9")),
        ({"languages": ("en", "de")}, "language", ("en", "DE"), ("fr", "")),
    ],
)
def test_each_limit_is_inclusive_and_drops_under_the_name_of_its_field(limit, field, passes, fails):
    filters = Filters(**limit)
    for value in passes:
        assert filters.failed_filter(record(**{field: value})) is None
        assert filters.failed_filter(record(**{field.upper(): value})) is None
    for value in fails:
        assert filters.failed_filter(record(**{field: value})) == field
    for about in ({}, {field: None}, {field: float("nan")} if field != "language" else {field: 3}):
        assert filters.failed_filter(record(**about)) == f"no {field}"
        assert Filters(**limit, missing="keep").failed_filter(record(**about)) is None


def test_alternative_names_of_a_field_are_known():
    assert Filters(min_aesthetic=5.0).failed_filter(record(AESTHETIC_SCORE=6.0)) is None
    assert Filters(min_aesthetic=5.0).failed_filter(record(aesthetic="", aesthetic_score=4.0)) == "aesthetic"
    assert Filters(languages=("en",)).failed_filter(record(lang="en")) is None


def test_a_record_is_dropped_under_the_first_filter_that_it_fails():
    filters = Filters(min_similarity=0.3, max_punsafe=0.1)
    assert filters.failed_filter(record(similarity=0.1, punsafe=1.0)) == "similarity"
    assert filters.failed_filter(record(similarity=0.5, punsafe=1.0)) == "punsafe"
    assert filters.failed_filter(record(punsafe=1.0)) == "no similarity"


def test_sides_and_aspect_are_those_of_the_image():
    filters = Filters(min_side=64, max_aspect=2.0)
    assert [filters.failed_size_filter(*size) for size in ((64, 128), (128, 64), (64, 64))] == [None] * 3
    assert [filters.failed_size_filter(*size) for size in ((64, 129), (129, 64))] == ["aspect"] * 2
    assert [filters.failed_size_filter(*size) for size in ((63, 64), (1000, 63))] == ["side"] * 2


def test_captions_outside_the_permitted_lengths_are_removed():
    assert Filters(min_characters=3, max_characters=5).keep_captions(("ab", "abc", "abcde", "abcdef", " ab  ")) == (
        "abc",
        "abcde",
    )
    assert Filters(max_characters=2).keep_captions(("猫猫", "猫猫猫")) == ("猫猫",)


@pytest.mark.parametrize(
    "wrong",
    [
        {"min_side": 0},
        {"max_aspect": 0.5},
        {"max_punsafe": 1.5},
        {"max_pwatermark": -0.1},
        {"min_characters": -1},
        {"min_characters": 5, "max_characters": 4},
        {"max_characters": 0},
    ],
)
def test_an_invalid_limit_is_reported_by_its_name(wrong):
    (message,) = Filters(**wrong).problems()
    assert next(iter(wrong)).split("_", 1)[1] in message
    assert Filters(min_side=1, max_aspect=1.0, min_characters=4, max_characters=4).problems() == []
