import numpy as np
import pytest

from dalle_jax.images.grid import FRAME, GAP, RIGHT, WRONG, grid


def noise(height=8, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_a_grid_holds_every_image_enlarged_and_frames_by_mark():
    images = [noise(seed=seed) for seed in range(5)]
    sheet = grid(images, 3, ["a caption that is long enough to wrap"] * 5, [True, False, None, None, True], scale=2)
    cell = 6 * 2 + 2 * FRAME + GAP
    first, second = GAP, GAP + cell
    for left, image in ((first, images[0]), (second, images[1])):
        shown = sheet[GAP + FRAME :, left + FRAME :][:16, :12]
        np.testing.assert_array_equal(shown, image.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(sheet[GAP, first], RIGHT)
    np.testing.assert_array_equal(sheet[GAP, second], WRONG)
    np.testing.assert_array_equal(sheet[GAP, GAP + 2 * cell], (255, 255, 255))
    assert grid(images, 8).shape[1] == 5 * (6 + 2 * FRAME + GAP) + GAP


def test_a_caption_of_any_length_adds_a_few_lines():
    image, words = noise(64, 64), "a red circle beside a blue square " * 9
    assert len(words) > 300
    assert grid([image], 1, [words * 10_000]).shape == grid([image], 1, [words]).shape


def test_a_grid_of_no_images_is_refused():
    with pytest.raises(ValueError, match="expected at least one image"):
        grid([], 3)
