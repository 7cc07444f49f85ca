import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dalle_jax.images.crops import Box, centre_box, crop_image, jittered_box, random_box
from dalle_jax.images.pixels import centre_square, resize


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def boxes(width, height, size, count=2000):
    return [random_box(width, height, size, random.Random(seed)) for seed in range(count)]


@settings(deadline=None, max_examples=300)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 512), st.integers(0, 2**32))
def test_a_random_box_lies_in_the_image_and_has_at_least_eight_ninths_of_its_shorter_side(width, height, size, seed):
    box = random_box(width, height, size, random.Random(seed))
    short = min(width, height)
    assert min(box.left, box.top) >= 0
    assert box.left + box.side <= width + 1e-9
    assert box.top + box.side <= height + 1e-9
    assert short * size / round(9 / 8 * size) - 1e-9 <= box.side <= short
    if short <= size:
        assert box.side == short
    assert box == random_box(width, height, size, random.Random(seed))


def test_corners_of_random_boxes_fill_the_middle_quarter_of_the_margin():
    starts = np.array([box.left for box in boxes(400, 200, 200)])  # its square has the target's size: no second crop
    assert {box.side for box in boxes(400, 200, 200, 50)} == {200.0}
    assert starts.min() == 75 and starts.max() == 124
    assert starts.mean() == pytest.approx(99.5, abs=1.5)
    assert np.bincount(starts.astype(int))[75:].min() > 10  # 40 expected of each of 50
    assert {box.top for box in boxes(400, 200, 200, 50)} == {0.0}


def test_random_boxes_of_a_large_square_have_every_size_from_8_ninths_on_at_every_place():
    found = boxes(1800, 1800, 64)
    sides = np.array([box.side for box in found])
    assert {round(1800 * 64 / between, 6) for between in range(64, 73)} == {round(side, 6) for side in sides}
    assert np.mean(sides == 1800) == pytest.approx(1 / 9, abs=0.03)
    places = np.array([(box.left / (1800 - box.side), box.top / (1800 - box.side)) for box in found if box.side < 1800])
    np.testing.assert_allclose(places.mean(0), 0.5, atol=0.03)
    assert abs(np.corrcoef(places.T)[0, 1]) < 0.08
    assert places.min() == 0 and places.max() == pytest.approx(1)


def crop(pixels, box, size, of=None):
    return crop_image(Image.fromarray(pixels), box, size, of)


def test_the_centre_crop_is_the_square_in_the_middle():
    for height, width in ((4, 10), (11, 4), (9, 9)):
        pixels = noise(height, width)
        np.testing.assert_array_equal(crop(pixels, centre_box(width, height), 5), centre_square(pixels, 5))
    np.testing.assert_array_equal(crop(noise(4, 10), centre_box(10, 4), 4), noise(4, 10)[:, 3:7])


def test_a_crop_equals_the_pixels_of_the_resized_image_except_near_its_edges():
    pixels = noise(90, 90)
    whole = resize(pixels, 36, 36).astype(int)
    box = Box(left=3 * 2.5, top=2 * 2.5, side=32 * 2.5)  # the paper's way: resize 90 to 36, then crop 32 at (3, 2)
    found = crop(pixels, box, 32).astype(int)
    assert np.abs(found - whole[2:34, 3:35])[3:-3, 3:-3].max() <= 1  # Lanczos reaches over 3 of the new pixels


def test_a_crop_does_not_depend_on_pixels_outside_its_box():
    pixels = noise(90, 90)
    box = Box(left=3 * 2.5, top=2 * 2.5, side=32 * 2.5)
    changed = pixels.copy()
    changed[:5], changed[:, 88:] = 0, 255
    np.testing.assert_array_equal(crop(changed, box, 32), crop(pixels, box, 32))


def test_a_crop_of_an_image_at_half_size_shows_the_same_part():
    ramp = np.broadcast_to(np.arange(240, dtype=np.uint8)[None, :, None], (200, 240, 3)).copy()
    half = resize(ramp, 100, 120)
    box = Box(left=31.0, top=10.0, side=128.0)
    difference = np.abs(crop(half, box, 32, of=(240, 200)).astype(int) - crop(ramp, box, 32).astype(int))
    assert difference.max() <= 1


@settings(deadline=None, max_examples=100)
@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(0, 2**32))
def test_a_jittered_box_contains_the_whole_image_and_is_at_most_an_eighth_larger(width, height, seed):
    box = jittered_box(width, height, random.Random(seed))
    assert box.left <= 0 and box.top <= 0
    assert box.left + box.side >= width - 1e-9 and box.top + box.side >= height - 1e-9
    assert max(width, height) <= box.side <= 9 / 8 * max(width, height)


def test_a_box_around_an_image_is_filled_with_the_colour_of_its_corners_or_else_with_the_outer_colour():
    blue, red, pink = (32, 80, 224), (224, 32, 32), (255, 105, 180)
    pixels = np.full((16, 16, 3), blue, np.uint8)
    pixels[4:12, 4:12] = red
    box = Box(-8.0, -8.0, 32.0)
    uniform = crop_image(Image.fromarray(pixels), box, 32, outside=pink).copy()
    assert (uniform[12:20, 12:20] == red).all()
    uniform[11:21, 11:21] = blue
    assert (uniform == blue).all()
    pixels[0, 0] = red
    differing = crop_image(Image.fromarray(pixels), box, 32, outside=pink)
    assert (differing[:5] == pink).all() and (differing[-5:] == pink).all() and (differing[14, 14] == red).all()
