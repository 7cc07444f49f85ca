"""Means of scores do not depend on batches or hosts; CLIPScore is its formula."""

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.score_means import ScoreMeans, Scores, clip_scores


def means(numbers, values, names=("psnr", "ssim")):
    out = ScoreMeans(names, "fake")
    out.update(Scores(np.asarray(numbers), {name: np.asarray(values, float) * (1 + i) for i, name in enumerate(names)}))
    return out


def test_merged_scores_have_the_mean_and_interval_of_the_whole():
    values = np.random.default_rng(0).normal(5, 2, size=90)
    whole = means(np.arange(90), values)
    parts = means(np.arange(1, 90, 2), values[1::2])
    parts.merge(means(np.arange(0, 90, 2), values[::2]))
    assert parts.result() == whole.result()
    assert ScoreMeans(("psnr", "ssim"), "fake").from_arrays(whole.arrays()).result() == whole.result()
    psnr, ssim = whole.result()
    assert psnr.value == pytest.approx(values.mean()) and ssim.value == pytest.approx(2 * values.mean())
    half = 1.96 * values.std() / np.sqrt(90)
    assert psnr.interval == pytest.approx((psnr.value - half, psnr.value + half), abs=0.15 * half)
    assert (psnr.name, psnr.count, psnr.features) == ("psnr", 90, "fake")


def test_the_worst_images_come_first():
    assert list(means([7, 3, 5], [0.3, 0.1, 0.2]).by_number("psnr").items()) == [(3, 0.1), (5, 0.2), (7, 0.3)]


def test_scores_that_cannot_be_averaged_are_refused():
    with pytest.raises(
        UserError, match=r"psnr: expected finite scores, got NaN or infinity for 1 of 2 images, .* number 8"
    ):
        means([7, 8], [1, np.nan])
    with pytest.raises(UserError, match="expected each once, got number 7 more than once"):
        means([7], [1]).merge(means([6, 7], [1, 2]))
    with pytest.raises(UserError, match="psnr: expected at least 1 scored images"):
        ScoreMeans(("psnr",)).result()


def test_clip_scores_are_cosines_of_at_least_zero():
    image = np.array([[3, 4], [1, 0], [1, 0]], np.float32)
    caption = np.array([[8, 6], [0, 2], [-1, 0]], np.float32)
    np.testing.assert_allclose(clip_scores(image, caption), [96, 0, 0], rtol=1e-6)
