"""Similarity of an image and its reconstruction: SSIM, MS-SSIM, and the scores of a batch of pairs.

Images are uint8 [B H W 3]. SSIM compares means, variances and covariance in a Gaussian window of 11 px, sigma 1.5, at
the positions where the window fits, and averages over positions and channels (Wang et al. 2004, section III).
"""

import itertools

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.features.feature_extractor import ImageDistance
from dalle_jax.evaluate.metrics.reconstruction import psnr

WINDOW, SIGMA = 11, 1.5
C1, C2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
"""Constants of Wang et al. that keep the quotients stable, for values in 0..255."""

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
"""Exponents of the scales from fine to coarse (Wang, Simoncelli and Bovik 2003, section 3.2)."""

MS_SSIM_SIZE = WINDOW * 2 ** (len(SCALE_WEIGHTS) - 1)
"""Smallest side of an image whose coarsest scale holds a window: 176 px."""


def ssim(one: UInt8[np.ndarray, "B H W 3"], other: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, " B"]:
    """Return SSIM of each pair; 1 means equal. Raises ``UserError`` for images smaller than the window."""
    _check_pairs("ssim", one, other, WINDOW)
    return _compare(_planes(one), _planes(other))[0]


def ms_ssim(one: UInt8[np.ndarray, "B H W 3"], other: UInt8[np.ndarray, "b h w 3"]) -> Float[np.ndarray, " B"]:
    """Return MS-SSIM of each pair over five scales; 1 means equal.

    A negative contrast term counts as 0. Raises ``UserError`` for images of less than 176 px.
    """
    _check_pairs("ms_ssim", one, other, MS_SSIM_SIZE)
    x, y = _planes(one), _planes(other)
    out = np.ones(len(one))
    for scale, weight in enumerate(SCALE_WEIGHTS):
        whole, contrast = _compare(x, y)
        term = whole if scale == len(SCALE_WEIGHTS) - 1 else contrast
        out *= np.maximum(term, 0) ** weight
        x, y = _halved(x), _halved(y)
    return out


def pair_scores(
    originals: UInt8[np.ndarray, "B H W 3"],
    copies: UInt8[np.ndarray, "B H W 3"],
    distance: ImageDistance | None = None,
) -> dict[str, Float[np.ndarray, " B"]]:
    """Return "psnr" and "ssim" of each pair, "ms_ssim" from 176 px on, and "lpips" if its network is given."""
    scores = {"ssim": ssim(originals, copies), "psnr": psnr(originals, copies)}
    if min(originals.shape[1:3]) >= MS_SSIM_SIZE:
        scores["ms_ssim"] = ms_ssim(originals, copies)
    if distance is not None:
        scores["lpips"] = distance.distance(originals, copies).astype(np.float64)
    return scores


def diversity(images: UInt8[np.ndarray, "P M H W 3"], distance: ImageDistance) -> Float[np.ndarray, " P"]:
    """Return the mean distance of the pairs of candidates of each prompt, such as LPIPS diversity.

    It is 0 for a model that draws one image per prompt. Raises ``UserError`` for fewer than two candidates.
    """
    count = images.shape[1]
    if count < 2:
        raise UserError(f"diversity: expected at least 2 candidates of each prompt, got {count}")
    pairs = list(itertools.combinations(range(count), 2))
    between = np.stack([distance.distance(images[:, a], images[:, b]) for a, b in pairs])  # [pairs P]
    return np.asarray(between.mean(axis=0, dtype=np.float64))


def _check_pairs(name: str, one: np.ndarray, other: np.ndarray, smallest: int) -> None:
    if one.shape != other.shape:
        raise UserError(f"{name}: expected two images of one size, got {list(one.shape)} and {list(other.shape)}")
    if min(one.shape[1:3]) < smallest:
        raise UserError(f"{name}: expected images of at least {smallest} px, got {one.shape[1]}x{one.shape[2]}")


def _planes(images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B 3 H W"]:
    return images.transpose(0, 3, 1, 2).astype(np.float64, order="C")  # BLAS takes contiguous planes


def _window(size: int) -> Float[np.ndarray, "k size"]:
    """Return the matrix that filters a line of ``size`` values with the Gaussian window."""
    taps = np.exp(-np.square(np.arange(WINDOW) - WINDOW // 2) / (2 * SIGMA**2))
    out = np.zeros((size - WINDOW + 1, size))
    for row in range(len(out)):
        out[row, row : row + WINDOW] = taps / taps.sum()
    return out


def _filtered(planes: Float[np.ndarray, "s B 3 H W"]) -> Float[np.ndarray, "s B 3 w h"]:
    """Filter both axes by one matrix product each, and swap them."""
    *outer, height, width = planes.shape
    lines = (planes.reshape(-1, width) @ _window(width).T).reshape(*outer, height, -1)
    columns = lines.swapaxes(-1, -2)  # [s B 3 w H]
    return (columns.reshape(-1, height) @ _window(height).T).reshape(*columns.shape[:-1], -1)


def _compare(
    x: Float[np.ndarray, "B 3 H W"], y: Float[np.ndarray, "B 3 H W"]
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Return SSIM and its contrast and structure term, averaged over channels and positions."""
    maps = _filtered(np.stack([x, y, x * x, y * y, x * y]))  # [5 B 3 w h]
    x_mean, y_mean = maps[:2]
    x_variance = np.maximum(maps[2] - x_mean**2, 0)
    y_variance = np.maximum(maps[3] - y_mean**2, 0)
    covariance = maps[4] - x_mean * y_mean
    contrast = (2 * covariance + C2) / (x_variance + y_variance + C2)
    luminance = (2 * x_mean * y_mean + C1) / (x_mean**2 + y_mean**2 + C1)
    return (luminance * contrast).mean(axis=(1, 2, 3)), contrast.mean(axis=(1, 2, 3))


def _halved(planes: Float[np.ndarray, "B 3 H W"]) -> Float[np.ndarray, "B 3 h w"]:
    """Average blocks of 2x2 px; an odd last row or column is dropped."""
    height, width = (size // 2 * 2 for size in planes.shape[2:])
    even = planes[:, :, :height, :width]
    return (even[:, :, ::2, ::2] + even[:, :, 1::2, ::2] + even[:, :, ::2, 1::2] + even[:, :, 1::2, 1::2]) / 4
