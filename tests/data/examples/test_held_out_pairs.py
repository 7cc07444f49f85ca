import numpy as np
import pytest

from dalle_jax.data.examples.held_out_pairs import HeldOutPairs
from dalle_jax.data.records import BadRecord, Record

PAIRS = (("thing", "colour"), ("thing", "style"))
RECORDS = [
    {"thing": f"thing {thing}", "colour": colour, "style": f"style {style}"}
    for thing in range(12)
    for colour in ("red", "blue", None)
    for style in range(4)
]


def combinations(rows):
    return {pair for row in rows for pair in HeldOutPairs(PAIRS, 0.1).combinations(row)}


def divided(config, records=RECORDS):
    held = config.mask(records)
    return [row for row, is_held in zip(records, held, strict=True) if not is_held], [
        row for row, is_held in zip(records, held, strict=True) if is_held
    ]


def test_a_held_out_record_has_a_combination_that_no_training_record_has():
    training, held = divided(HeldOutPairs(PAIRS, 0.1))
    seen = combinations(training)
    assert 0 < len(held) < len(training)
    assert all(combinations([row]) - seen for row in held)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_each_value_of_a_held_out_combination_still_occurs_in_training(share):
    training, _ = divided(HeldOutPairs(PAIRS, share))
    for field in ("thing", "colour", "style"):
        assert {row[field] for row in training} == {row[field] for row in RECORDS}


def test_the_choice_depends_on_values_and_seed_but_not_on_the_order_of_records():
    def held(config, records):
        return {tuple(row.items()) for row in divided(config, records)[1]}

    config = HeldOutPairs(PAIRS, 0.2)
    assert held(config, RECORDS) == held(config, RECORDS[::-1]) != held(HeldOutPairs(PAIRS, 0.2, seed=1), RECORDS)


class Few:
    """Records of which the last cannot be read."""

    problems = ()

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 4:
            raise BadRecord("4", "broken", "it is")
        thing, colour = (("fox", "red"), ("fox", "red"), ("cat", "red"), ("fox", None))[index]
        return Record(str(index), b"", ("a",), {"thing": thing, "colour": colour})

    def fingerprint(self):
        return "few"


def test_records_without_a_field_have_no_combination_and_bad_records_are_not_held_out():
    rules = (HeldOutPairs((("thing", "colour"),), 0.5, seed) for seed in range(20))
    held = {tuple(rule.held(Few(), np.arange(5)).tolist()) for rule in rules}
    assert held == {(False,) * 5, (True, True, False, False, False)}  # the cat occurs in red alone


@pytest.mark.parametrize("wrong", [((), 0.1), ((("a", "a"),), 0.1), (PAIRS, 0.0), (PAIRS, 1.0)])
def test_a_rule_without_pairs_or_with_an_impossible_share_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=r"pairs|share"):
        HeldOutPairs(*wrong)
