from dataclasses import astuple

import pytest

from dalle_jax.evaluate.metrics.text_accuracy import TextAccuracy, edit_distance


@pytest.mark.parametrize(
    ("one", "other", "edits"),
    [
        ("", "", 0),
        ("CAT", "CAT", 0),
        ("CAT", "", 3),
        ("", "AB", 2),
        ("CAT", "CUT", 1),
        ("CAT", "AT", 1),
        ("AB", "BA", 2),
    ],
)
def test_the_edit_distance_counts_inserted_deleted_and_replaced_letters(one, other, edits):
    assert edit_distance(one, other) == edit_distance(other, one) == edits


def test_the_figures_are_the_sums_over_all_words():
    found = TextAccuracy().update(["CAT", "A", "XY"], ["CUT", "A", "XYZZ"])
    assert found.character_error_rate == pytest.approx(3 / 6)
    assert found.word_accuracy.value == pytest.approx(1 / 3)
    assert found.normalised_edit_distance == pytest.approx((1 / 3 + 0 + 2 / 4) / 3)


def test_merged_parts_give_the_figures_of_the_whole():
    expected, read = ["CAT", "A", "XY", "U"], ["CUT", "A", "", "V"]
    parts = [TextAccuracy().update(expected[part], read[part]) for part in (slice(0, 1), slice(1, 4))]
    whole = TextAccuracy().update(expected, read)
    assert astuple(parts[0].merge(parts[1])) == pytest.approx(astuple(whole))


def test_no_words_give_no_figures_and_a_missing_word_is_an_error():
    assert TextAccuracy().to_json()["character_error_rate"] is None
    with pytest.raises(ValueError, match="expected 2 words, got 1"):
        TextAccuracy().update(["A", "B"], ["A"])
