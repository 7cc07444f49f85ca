"""SSIM and MS-SSIM equal their formulas position by position, and order images by their distortion."""

import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.image_pairs import MS_SSIM_SIZE, diversity, ms_ssim, pair_scores, ssim


class PixelDistance:
    name = "mean absolute difference"

    def distance(self, one, other):
        return np.abs(one.astype(np.float32) - other).mean(axis=(1, 2, 3))


def smooth_images(count, height, width, seed=0):
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, height // 8, width // 8, 3))
    return np.repeat(np.repeat(coarse, 8, axis=1), 8, axis=2).astype(np.uint8)


def noisy(images, scale, seed=1):
    noise = np.random.default_rng(seed).normal(scale=scale, size=images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


def ssim_at(x, y, row, column):
    """Return SSIM of one channel in the window whose first position is given."""
    taps = np.exp(-np.square(np.arange(-5, 6)) / 4.5)
    weights = np.outer(taps, taps) / taps.sum() ** 2
    a, b = (plane[row : row + 11, column : column + 11].astype(np.float64) for plane in (x, y))
    a_mean, b_mean = (weights * a).sum(), (weights * b).sum()
    a_variance, b_variance = (weights * (a - a_mean) ** 2).sum(), (weights * (b - b_mean) ** 2).sum()
    covariance = (weights * (a - a_mean) * (b - b_mean)).sum()
    c1, c2 = 2.55**2, 7.65**2
    return (
        (2 * a_mean * b_mean + c1)
        * (2 * covariance + c2)
        / ((a_mean**2 + b_mean**2 + c1) * (a_variance + b_variance + c2))
    )


def test_ssim_is_its_formula_in_each_window():
    x = smooth_images(2, 16, 24)
    y = noisy(x, 20)
    for image in range(2):
        windows = [
            ssim_at(x[image, ..., c], y[image, ..., c], i, j) for c in range(3) for i in range(6) for j in range(14)
        ]
        assert ssim(x, y)[image] == pytest.approx(np.mean(windows), rel=1e-9)


def test_similarities_of_equal_images_are_one_and_fall_with_noise():
    x = smooth_images(1, MS_SSIM_SIZE, MS_SSIM_SIZE)
    for measure in (ssim, ms_ssim):
        np.testing.assert_allclose(measure(x, x), 1, rtol=1e-12)
        levels = [measure(x, noisy(x, scale)) for scale in (5, 40)]
        assert (np.diff(levels, axis=0) < 0).all()
        np.testing.assert_allclose(measure(x, noisy(x, 20)), measure(noisy(x, 20), x), rtol=1e-12)


def test_scores_of_pairs_leave_out_what_is_not_defined():
    x = smooth_images(2, 16, 16)
    assert pair_scores(x, noisy(x, 5)).keys() == {"psnr", "ssim"}
    assert pair_scores(x, noisy(x, 5), PixelDistance()).keys() == {"psnr", "ssim", "lpips"}
    large = smooth_images(1, MS_SSIM_SIZE, MS_SSIM_SIZE)
    assert "ms_ssim" in pair_scores(large, large)


def test_diversity_is_the_mean_over_pairs_of_candidates():
    images = np.zeros((2, 3, 4, 4, 3), np.uint8)
    images[0, 1], images[0, 2] = 10, 40
    np.testing.assert_allclose(diversity(images, PixelDistance()), [(10 + 40 + 30) / 3, 0])
    with pytest.raises(UserError, match="diversity: expected at least 2 candidates of each prompt, got 1"):
        diversity(images[:, :1], PixelDistance())


def test_images_of_other_or_small_sizes_are_refused():
    x = smooth_images(1, 16, 16)
    with pytest.raises(
        UserError, match=r"ssim: expected two images of one size, got \[1, 16, 16, 3\] and \[1, 8, 16, 3\]"
    ):
        ssim(x, x[:, :8])
    with pytest.raises(UserError, match="ssim: expected images of at least 11 px, got 8x16"):
        ssim(x[:, :8], x[:, :8])
    with pytest.raises(UserError, match="ms_ssim: expected images of at least 176 px, got 16x16"):
        ms_ssim(x, x)
