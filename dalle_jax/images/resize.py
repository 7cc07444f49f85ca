"""Pictures to another size, on the host."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image


def resize(
    pixels: UInt8[np.ndarray, "H W 3"],
    height: int,
    width: int,
    box: tuple[float, float, float, float] | None = None,
) -> UInt8[np.ndarray, "height width 3"]:
    """The whole picture at another size, aspect not kept; shrinking averages (Lanczos), so nothing flickers.

    With a ``box`` (left, top, right, bottom in pixels, fractions too) what is in it, as if that were cut out of the
    resized whole: at its edges the average takes in a little of what is around.
    """
    if box is None and pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), Image.Resampling.LANCZOS, box=box))


def enlarge(pixels: UInt8[np.ndarray, "H W 3"], times: int) -> UInt8[np.ndarray, "h w 3"]:
    """Every pixel becomes a square of ``times`` pixels a side."""
    return pixels.repeat(times, axis=0).repeat(times, axis=1)


def centre_square(pixels: UInt8[np.ndarray, "H W 3"], size: int) -> UInt8[np.ndarray, "size size 3"]:
    """The largest square in the middle of the picture, at ``size`` pixels a side."""
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return resize(pixels[top : top + side, left : left + side], size, size)
