"""Pixel arrays: value ranges (uint8 0..255 in files and batches, float32 0..1 in models) and sizes."""

from typing import TypeVar

import jax
import numpy as np
from jaxtyping import UInt8
from PIL import Image

Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


def to_float(pixels: Pixels) -> Pixels:
    """Convert uint8 0..255 to float32 in [0, 1]. Accept numpy and jax arrays, also inside jit."""
    return pixels.astype("float32") / 255


def to_uint8(values: Pixels) -> Pixels:
    """Convert floats in [0, 1] to uint8 by rounding. Values outside the range are clipped."""
    return (values.clip(0, 1) * 255 + 0.5).astype("uint8")


def resize(pixels: UInt8[np.ndarray, "H W 3"], height: int, width: int) -> UInt8[np.ndarray, "height width 3"]:
    """Resize an image with a Lanczos filter, which averages pixels if the image shrinks.

    It may change the aspect ratio.
    """
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS))


def centre_square(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Cut the largest square out of the middle of an image and resize it to ``size`` pixels a side."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(pixels[top : top + side, left : left + side], size, size)
