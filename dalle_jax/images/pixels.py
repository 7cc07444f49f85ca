"""Value ranges of pixels: uint8 0..255 in files and batches, float32 0..1 in models.

Both ways work on numpy and on jax arrays, inside jit too, and give back the kind that they got.
"""

from typing import TypeVar

PixelArray = TypeVar("PixelArray")


def to_float(pixels: PixelArray) -> PixelArray:
    """uint8 0..255 to float32 [0, 1]."""
    return pixels.astype("float32") / 255  # type: ignore[attr-defined]


def to_uint8(values: PixelArray) -> PixelArray:
    """Float [0, 1] to the nearest of uint8 0..255; values outside are cut."""
    return (values.clip(0, 1) * 255 + 0.5).astype("uint8")  # type: ignore[attr-defined]
