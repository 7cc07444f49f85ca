"""CLIP's image preprocessing on the devices, with the values of Pillow bit for bit (images/clip_pixels.py).

Pillow resizes in two passes, first along rows, then along columns, with integer coefficients of 22 bits, and rounds to
8 bits after each pass (src/libImaging/Resample.c).
"""

import functools
import math

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, UInt8
from dalle_jax.images.clip_pixels import Convention, corner

BITS = 22
"""Bits after the point of a coefficient: 32 less 8 of a pixel and 2 for the sum."""
SUPPORT, SHARPNESS = 2.0, -0.5
"""Half of the width of the bicubic filter, in pixels of the smaller grid, and its parameter a."""


def clip_pixels_device(
    images: UInt8[Array, "B H W 3"], size: int, convention: Convention = "openai"
) -> UInt8[Array, "B S S 3"]:
    """Return the middle square of each image, resized to ``size`` pixels a side, as ``clip_pixels`` does."""
    height, width = images.shape[1:3]
    short, long = min(height, width), max(height, width)
    if short != size:
        longer = int(size * long / short)
        images = _resized(images, 2, size if width <= height else longer)
        images = _resized(images, 1, longer if width <= height else size)
    top, left = (corner(side - size, convention) for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


def _resized(images: UInt8[Array, "B H W 3"], axis: int, size: int) -> UInt8[Array, "B h w 3"]:
    """Resize one axis: each output pixel is a sum of a few input pixels with integer weights."""
    if images.shape[axis] == size:
        return images
    places, weights = _taps(images.shape[axis], size)
    shape = [1, 1, 1, 1]
    shape[axis] = size
    total = jnp.int32(1 << (BITS - 1))
    for place, weight in zip(places.T, weights.T, strict=True):
        total = total + jnp.take(images, place, axis=axis).astype(jnp.int32) * weight.reshape(shape)
    return jnp.clip(total >> BITS, 0, 255).astype(jnp.uint8)


@functools.cache
def _taps(before: int, after: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the input pixels of each output pixel and their weights, both int32 [after taps]."""
    scale = before / after
    stretch = max(scale, 1.0)
    support = SUPPORT * stretch
    taps = math.ceil(support) * 2 + 1
    places, weights = np.zeros((after, taps), np.int32), np.zeros((after, taps), np.int32)
    for number in range(after):
        centre = (number + 0.5) * scale
        first = max(0, int(centre - support + 0.5))
        last = min(before, int(centre + support + 0.5))
        found = [_bicubic((place - centre + 0.5) * (1.0 / stretch)) for place in range(first, last)]
        total = sum(found)
        for tap, weight in enumerate(found):
            share = weight / total * (1 << BITS)
            places[number, tap], weights[number, tap] = first + tap, int(share + math.copysign(0.5, share))
    return places, weights


def _bicubic(x: float) -> float:
    """Compute the cubic convolution kernel (Keys 1981, equation 15) with a = -0.5."""
    x, a = abs(x), SHARPNESS
    if x < 1.0:
        return ((a + 2.0) * x - (a + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * a if x < 2.0 else 0.0
