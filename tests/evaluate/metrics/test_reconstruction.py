import numpy as np
import pytest

from dalle_jax.evaluate.metrics.composition import evaluation_captions
from dalle_jax.evaluate.metrics.reconstruction import PSNR_LIMIT, mean_squared_errors, measure_reconstruction, psnr
from dalle_jax.evaluate.metrics.shares import Share
from dalle_jax.scenes.grammar import parse
from dalle_jax.scenes.rendering import render


def test_psnr_of_a_known_error():
    originals = np.full((1, 4, 4, 3), 100, np.uint8)
    copies = originals + 51  # a fifth of the range everywhere: MSE 0.04
    assert mean_squared_errors(originals, copies) == pytest.approx([0.04])
    assert psnr(originals, copies) == pytest.approx([-10 * np.log10(0.04)])


def test_psnr_is_averaged_over_images_not_over_pixels():
    originals = np.zeros((2, 2, 2, 3), np.uint8)
    copies = np.stack([originals[0] + 51, originals[0] + 5])
    measured = measure_reconstruction(originals, copies)
    assert measured.psnr == pytest.approx(psnr(originals, copies).mean())
    assert measured.psnr != pytest.approx(-10 * np.log10(measured.mse), abs=1.0)
    assert (measured.count, measured.still_right) == (2, {})


def test_an_exact_copy_counts_as_the_limit():
    images = np.zeros((1, 2, 2, 3), np.uint8)
    assert measure_reconstruction(images, images).psnr == PSNR_LIMIT


def test_reading_accuracy_of_reconstructions_is_counted_per_level():
    rng = np.random.default_rng(0)
    levels = [1, 1, 1, 2, 2, 2]
    captions = [*evaluation_captions(1, "seen", 3, seed=2), *evaluation_captions(2, "seen", 3, seed=2)]
    originals = np.stack([render(parse(caption), 48, rng) for caption in captions])
    copies = originals.copy()
    copies[1] = copies[4] = copies[5] = 236  # a plain background
    measured = measure_reconstruction(originals, copies, captions, levels)
    assert measured.read_right == {1: Share(3, 3), 2: Share(3, 3)}
    assert measured.still_right == {1: Share(2, 3), 2: Share(1, 3)}
    assert measured.to_json()["still_right"] == {"level_1": pytest.approx(2 / 3), "level_2": pytest.approx(1 / 3)}


def test_different_lengths_are_refused():
    images = np.zeros((2, 2, 2, 3), np.uint8)
    with pytest.raises(ValueError, match=r"copies: expected the shape of originals, \(0, 2, 2, 3\), not empty"):
        measure_reconstruction(images[:0], images[:0])
    with pytest.raises(ValueError, match="captions, levels: expected 2 each, one per image, or none; got 1, 1"):
        measure_reconstruction(images, images, ["a"], [1])
