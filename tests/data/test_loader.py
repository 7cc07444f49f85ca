from collections import Counter

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.data.loader import Loader


class Numbers:
    """A source whose example i is an image filled with i, with four captions."""

    def __init__(self, count, name="numbers"):
        self.count, self.name = count, name

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if not 0 <= index < self.count:
            raise IndexError(index)
        image = np.full((2, 2, 3), index % 256, np.uint8)
        return {"key": str(index), "image": image, "captions": [f"{index} {letter}" for letter in "abcd"]}

    def fingerprint(self):
        return self.name


def keys(loader, steps):
    return [key for step in steps for key in loader.batch(step)["key"]]


@pytest.mark.parametrize(("count", "size"), [(10, 4), (7, 7), (5, 8), (1, 3), (64, 5)])
def test_every_example_comes_once_per_epoch_whatever_the_batch_size(count, size):
    order = keys(Loader(Numbers(count), None, size, seed=1), range(4 * count))
    for epoch in range(4):
        assert sorted(order[epoch * count : (epoch + 1) * count], key=int) == [str(i) for i in range(count)]


def test_each_epoch_and_each_seed_has_a_different_order():
    order = keys(Loader(Numbers(50), None, 10, seed=1), range(10))
    assert order[:50] != order[50:]
    assert order != keys(Loader(Numbers(50), None, 10, seed=2), range(10))


def test_any_step_can_be_read_first_and_read_again():
    whole = [Loader(Numbers(30), None, 7, seed=1).batch(step) for step in range(12)]
    resumed = Loader(Numbers(30), None, 7, seed=1)
    for step in (11, 5, 5, 0):
        assert resumed.batch(step)["key"] == whole[step]["key"]
        assert resumed.batch(step)["caption"] == whole[step]["caption"]
        np.testing.assert_array_equal(resumed.batch(step)["image"], whole[step]["image"])


def test_image_caption_and_key_of_a_row_belong_to_the_same_example():
    batch = Loader(Numbers(30), None, 7, seed=1).batch(3)
    assert list(batch) == ["image", "caption", "key", "caption_group"]
    for image, caption, key in zip(batch["image"], batch["caption"], batch["key"], strict=True):
        assert image.dtype == np.uint8
        assert image[0, 0, 0] == int(key) == int(caption.split()[0])


def test_examples_with_the_same_captions_in_any_order_share_a_caption_group():
    class Worded(Numbers):
        def __getitem__(self, index):
            words = ["a dog", "one dog"] if index < 2 else [f"cat {index}", "a cat"]
            return {**super().__getitem__(index), "captions": words[:: 1 if index else -1]}

    batch = Loader(Worded(6), None, 6, seed=1).batch(0)
    groups = dict(zip(batch["key"], batch["caption_group"], strict=True))
    assert groups["0"] == groups["1"]
    assert len(set(groups.values())) == 5
    assert all(0 <= group < 2**31 for group in groups.values())


def test_the_chosen_caption_changes_with_the_epoch_and_all_are_chosen_equally_often():
    loader = Loader(Numbers(200), None, 200, seed=1)
    chosen = [dict(zip(loader.batch(epoch)["key"], loader.batch(epoch)["caption"], strict=True)) for epoch in range(12)]
    letters = Counter(caption.split()[1] for epoch in chosen for caption in epoch.values())
    assert all(abs(letters[letter] / 2400 - 0.25) < 0.04 for letter in "abcd")
    assert np.mean([chosen[0][key] == chosen[1][key] for key in chosen[0]]) == pytest.approx(0.25, abs=0.1)


def test_evaluation_batches_are_in_order_and_complete_and_the_same_every_time():
    loader = Loader(Numbers(10), Numbers(11, "held out"), 4, seed=1)
    first, again = list(loader.evaluation_batches()), list(loader.evaluation_batches())
    assert [batch["key"] for batch in first] == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9", "10"]]
    assert [batch["caption"] for batch in first] == [batch["caption"] for batch in again]
    assert all("counted" not in batch for batch in first)


@pytest.mark.parametrize("nothing", [None, Numbers(0)], ids=["none", "empty"])
def test_without_held_out_examples_there_is_no_evaluation(nothing):
    loader = Loader(Numbers(10), nothing, 4, seed=1)
    assert list(loader.evaluation_batches()) == list(loader.evaluation_batches(range(4))) == []
    assert (loader.examples, loader.held_out) == (10, 0)


@pytest.mark.parametrize(("count", "size"), [(11, 4), (3, 8), (1, 4), (13, 8), (9, 8)])
def test_padded_batches_count_each_example_once_and_have_each_once_as_a_candidate(count, size):
    loader = Loader(Numbers(10), Numbers(count), size, seed=1)
    counted = []
    for batch in loader.evaluation_batches(range(size)):
        assert len(batch["key"]) == len(batch["counted"]) == len(batch["candidate"]) == size
        counted += [key for key, one in zip(batch["key"], batch["counted"], strict=True) if one]
        candidates = [key for key, one in zip(batch["key"], batch["candidate"], strict=True) if one]
        assert len(candidates) == len(set(candidates)) == min(count, size)
        assert not any(one and not other for one, other in zip(batch["counted"], batch["candidate"], strict=True))
    assert counted == [str(number) for number in range(count)]


def test_batches_without_padding_have_neither_counted_nor_candidate():
    batches = list(Loader(Numbers(10), Numbers(8), 4, seed=1).evaluation_batches(range(4)))
    assert [batch["key"] for batch in batches] == [["0", "1", "2", "3"], ["4", "5", "6", "7"]]
    assert all("counted" not in batch and "candidate" not in batch for batch in batches)


def test_the_fingerprint_changes_with_everything_that_changes_a_batch():
    def fingerprint(count=10, name="a", evaluation="b", size=4, seed=0):
        return Loader(Numbers(count, name), Numbers(9, evaluation), size, seed).fingerprint()

    different = [{}, {"count": 11}, {"name": "c"}, {"evaluation": "c"}, {"size": 5}, {"seed": 1}]
    assert len({fingerprint(**change) for change in different}) == len(different)
    assert fingerprint() == fingerprint()


def test_an_empty_source_and_invalid_sizes_and_seeds_are_user_errors():
    with pytest.raises(UserError, match="expected examples to train on"):
        Loader(Numbers(0), None, 4, seed=0)
    with pytest.raises(UserError, match="at least 1"):
        Loader(Numbers(5), None, 0, seed=0)
    with pytest.raises(UserError, match="seed"):
        Loader(Numbers(5), None, 4, seed=-1)
