import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.images.crops import Box, centre_box, cut, random_box
from dalle_jax.images.resize import centre_square, resize


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(width, height, size, count=2000):
    return [random_box(width, height, size, random.Random(seed)) for seed in range(count)]


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 512), st.integers(0, 2**32))
def test_a_box_lies_in_the_picture_and_is_eight_ninths_of_its_side_or_more(width, height, size, seed):
    box = random_box(width, height, size, random.Random(seed))
    short = min(width, height)
    assert min(box.left, box.top) >= 0
    assert box.left + box.side <= width + 1e-9
    assert box.top + box.side <= height + 1e-9
    assert short * size / round(9 / 8 * size) - 1e-9 <= box.side <= short
    if short <= size:
        assert box.side == short
    assert box == random_box(width, height, size, random.Random(seed))


def test_random_boxes_come_from_the_middle_quarter_of_the_room_and_fill_it():
    starts = np.array([box.left for box in boxes(400, 200, 200)])  # a square of the target's size: no second crop
    assert {box.side for box in boxes(400, 200, 200, 50)} == {200.0}
    assert starts.min() == 75 and starts.max() == 124
    assert starts.mean() == pytest.approx(99.5, abs=1.5)
    assert np.bincount(starts.astype(int))[75:].min() > 10  # 40 expected of each of 50
    assert {box.top for box in boxes(400, 200, 200, 50)} == {0.0}


def test_random_boxes_of_a_large_square_are_all_sizes_from_8_ninths_to_all_and_all_places():
    found = boxes(1800, 1800, 64)
    sides = np.array([box.side for box in found])
    assert {round(1800 * 64 / between, 6) for between in range(64, 73)} == {round(side, 6) for side in sides}
    assert np.mean(sides == 1800) == pytest.approx(1 / 9, abs=0.03)
    places = np.array([(box.left / (1800 - box.side), box.top / (1800 - box.side)) for box in found if box.side < 1800])
    np.testing.assert_allclose(places.mean(0), 0.5, atol=0.03)
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.08
    assert places.min() == 0 and places.max() == pytest.approx(1)


def test_the_centre_crop_is_the_square_in_the_middle():
    for height, width in ((4, 10), (11, 4), (9, 9)):
        pixels = noise(height, width)
        np.testing.assert_array_equal(cut(pixels, centre_box(width, height), 5), centre_square(pixels, 5))
    np.testing.assert_array_equal(cut(noise(4, 10), centre_box(10, 4), 4), noise(4, 10)[:, 3:7])


def test_a_cut_equals_the_same_pixels_of_the_resized_whole_but_for_what_is_around_it():
    pixels = noise(90, 90)
    whole = resize(pixels, 36, 36).astype(int)
    box = Box(left=3 * 2.5, top=2 * 2.5, side=32 * 2.5)  # the paper's way: 90 at 36 a side, of that 32 at (3, 2)
    found = cut(pixels, box, 32).astype(int)
    assert np.abs(found - whole[2:34, 3:35])[3:-3, 3:-3].max() <= 1  # Lanczos reaches over 3 of the new pixels
    around = pixels.copy()
    around[:5], around[:, 88:] = 0, 255
    np.testing.assert_array_equal(cut(around, box, 32), found)


def test_a_cut_of_a_picture_at_half_its_size_shows_the_same_part():
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (200, 240, 3)).copy()
    half = resize(ramp, 100, 120)
    box = Box(left=31.0, top=10.0, side=128.0)
    close = np.abs(cut(half, box, 32, of=(240, 200)).astype(int) - cut(ramp, box, 32).astype(int))
    assert close.max() <= 1
