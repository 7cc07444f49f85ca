import numpy as np
import pytest

from dalle_jax.data.examples.held_out import HeldOut, Subset, keys_of
from dalle_jax.data.records import BadRecord, Record

KEYS = [f"k{index}" for index in range(2000)]


class Plain:
    """Records whose keys are known only after reading. The first record cannot be read."""

    problems = ()

    def __len__(self):
        return 5

    def __getitem__(self, index):
        if index == 0:
            raise BadRecord("k0", "broken", "it is")
        return Record(f"k{index}", b"", ("a",), {})

    def fingerprint(self):
        return "plain"


def held(config, keys):
    return {key for key, is_held in zip(keys, config.mask(keys), strict=True) if is_held}


@pytest.mark.parametrize("config", [HeldOut(count=100), HeldOut(share=0.05)], ids=["count", "share"])
def test_held_out_records_depend_on_keys_and_seed_but_not_on_their_order(config):
    assert held(config, KEYS) == held(config, KEYS[::-1])
    other = HeldOut(config.count, config.share, seed=1)
    assert held(config, KEYS) != held(other, KEYS)


def test_a_count_is_exact_and_a_share_is_approximate():
    assert len(held(HeldOut(count=100), KEYS)) == 100
    assert len(held(HeldOut(share=0.05), KEYS)) == pytest.approx(100, abs=30)


def test_with_a_share_added_records_move_no_other_to_the_other_side():
    config = HeldOut(share=0.1)
    assert held(config, KEYS[:1000]) == held(config, KEYS) & set(KEYS[:1000])


@pytest.mark.parametrize("wrong", [{}, {"count": 5, "share": 0.1}, {"count": -1}, {"share": -0.1}, {"share": 1.0}])
def test_a_rule_without_a_number_or_that_holds_out_all_is_a_value_error(wrong):
    with pytest.raises(ValueError, match=r"count|share"):
        HeldOut(**wrong)


@pytest.mark.parametrize("config", [HeldOut(count=0), HeldOut(share=0.0)], ids=["count", "share"])
def test_a_count_or_share_of_0_holds_nothing_out(config):
    assert held(config, KEYS) == set()


def test_a_subset_has_the_records_of_its_indices_and_a_fingerprint_of_them():
    subset = Subset(Plain(), np.array([4, 2]))
    assert [subset[index].key for index in range(len(subset))] == ["k4", "k2"]
    prints = {Subset(Plain(), np.array(indices)).fingerprint() for indices in ([4, 2], [2, 4], [4], [4, 2, 1])}
    assert len(prints) == 4
    with pytest.raises(IndexError):
        subset[2]


def test_records_are_read_for_their_keys_if_the_source_does_not_know_them():
    assert keys_of(Plain(), np.arange(5)) == [f"k{index}" for index in range(5)]
