"""Weights of cubic interpolation along one axis, as torch's ``interpolate`` computes them, for grids of embeddings."""

import math

import numpy as np

from dalle_jax.arrays import Float

TORCH_SHARPNESS, ANTIALIASED_SHARPNESS = -0.75, -0.5
"""The parameter a of the cubic kernel (Keys 1981, equation 15), without and with antialiasing."""


def cubic(x: Float[np.ndarray, "..."], a: float) -> Float[np.ndarray, "..."]:
    """Compute the cubic convolution kernel, which is 0 from a distance of 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def cubic_weights(before: int, after: int, scale: float) -> Float[np.ndarray, "after before"]:
    """Return the weights of 4 nearest entries; ``scale`` is the distance of two outputs. Entries repeat at the border.

    ``scale`` is ``before / after``, unless a program names it, as DINOv2 does.
    """
    place = (np.arange(after) + 0.5) * scale - 0.5
    first = np.floor(place).astype(np.int64) - 1
    weights = np.zeros((after, before))
    for tap in range(4):
        index = np.clip(first + tap, 0, before - 1)
        np.add.at(weights, (np.arange(after), index), cubic(place - (first + tap), TORCH_SHARPNESS))
    return weights


def antialiased_cubic_weights(before: int, after: int) -> Float[np.ndarray, "after before"]:
    """Return the weights of a kernel that is as wide as an output where the grid shrinks, as torch's and Pillow's."""
    scale = before / after
    stretch = max(scale, 1.0)
    weights = np.zeros((after, before))
    for row in range(after):
        centre = (row + 0.5) * scale
        first = max(0, math.floor(centre - 2 * stretch + 0.5))
        last = min(before, math.floor(centre + 2 * stretch + 0.5))
        inside = cubic((np.arange(first, last) - centre + 0.5) / stretch, ANTIALIASED_SHARPNESS)
        weights[row, first:last] = inside / inside.sum()
    return weights
