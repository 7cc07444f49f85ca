"""Random masks of inpainting's training: their kinds, sizes and shares, and that the keys alone decide them."""

import jax
import numpy as np
import pytest

from dalle_jax.images.random_masks import RandomMasks

SIDE, COUNT = 32, 256
KEYS = jax.random.split(jax.random.key(0), COUNT)
BOX = RandomMasks(outside=0.0, strokes=0.0, everything=0.0)


@pytest.fixture(scope="module")
def masks():
    """Return the masks of each kind alone, and of all kinds with equal shares."""
    kinds = {
        "inside": BOX,
        "outside": RandomMasks(outside=1.0, strokes=0.0, everything=0.0),
        "stroke": RandomMasks(outside=0.0, strokes=1.0, everything=0.0),
        "everything": RandomMasks(outside=0.0, strokes=0.0, everything=1.0),
        "mixed": RandomMasks(outside=0.25, strokes=0.25, everything=0.25),
    }
    return {
        name: np.asarray(jax.jit(lambda keys, one=one: one.hidden(keys, SIDE))(KEYS)) for name, one in kinds.items()
    }


def test_the_keys_alone_decide_the_masks_whatever_the_batch(masks):
    again = np.asarray(BOX.hidden(KEYS[5:7], SIDE))
    np.testing.assert_array_equal(again, masks["inside"][5:7])
    assert len(np.unique(masks["inside"].reshape(COUNT, -1), axis=0)) > COUNT // 2


def test_a_rectangle_is_one_with_sides_in_the_range(masks):
    for one in masks["inside"]:
        rows, columns = np.flatnonzero(one.any(axis=1)), np.flatnonzero(one.any(axis=0))
        assert one.sum() == len(rows) * len(columns) > 0
    narrow = RandomMasks(outside=0.0, strokes=0.0, everything=0.0, least=0.25, most=0.25).hidden(KEYS[:64], SIDE)
    whole = narrow[np.asarray(~(narrow[:, [0, -1]].any((1, 2)) | narrow[:, :, [0, -1]].any((1, 2))))]
    heights = np.asarray(whole.any(axis=2).sum(axis=1))
    assert len(heights) > 16 and set(np.unique(heights)) <= {7, 8, 9}


def test_all_but_a_rectangle_is_the_complement_and_everything_is_all(masks):
    np.testing.assert_array_equal(masks["outside"], ~masks["inside"])
    assert masks["everything"].all()


def test_a_stroke_hides_some_pixels_of_each_image_and_is_no_rectangle(masks):
    share = masks["stroke"].mean(axis=(1, 2))
    assert share.min() > 0.01 and share.max() < 0.8
    boxes = masks["stroke"].any(axis=2).sum(axis=1) * masks["stroke"].any(axis=1).sum(axis=1)
    assert (masks["stroke"].sum(axis=(1, 2)) < boxes).mean() > 0.95


def test_each_kind_has_its_share(masks):
    names = ("inside", "outside", "stroke", "everything")
    kinds = np.array([[np.array_equal(one, masks[name][row]) for name in names]
                      for row, one in enumerate(masks["mixed"])])  # fmt: skip
    assert kinds.any(axis=1).all()
    assert np.abs(kinds.mean(axis=0) - 0.25).max() < 0.1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"outside": 0.6, "strokes": 0.5}, "expected shares whose sum is at most 1, got"),
        ({"everything": -0.1}, "expected shares whose sum is at most 1, got"),
        ({"least": 0.5, "most": 0.4}, r"expected ranges of numbers above 0, got 0\.5 to 0\.4"),
        ({"thickness": (0.0, 0.1)}, "expected ranges of numbers above 0"),
    ],
)
def test_wrong_shares_and_sizes_are_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        RandomMasks(**fields)
