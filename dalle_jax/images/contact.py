"""Cells of a contact sheet: a whole image on grey, and an outline of the square to which training crops it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from dalle_jax.images.crops import Box

GREY = (236, 236, 232)
ORANGE, WHITE = (255, 120, 0), (255, 255, 255)


def contact_cell(pixels: UInt8[np.ndarray, "H W 3"], side: int, box: Box | None = None) -> UInt8[np.ndarray, "n n 3"]:
    """Fit an image into a square cell of ``side`` pixels, centred on grey.

    The square ``box``, in pixels of the image, is drawn as an outline in orange and white.
    """
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (side - wide) // 2, (side - high) // 2
    sheet = Image.new("RGB", (side, side), GREY)
    sheet.paste(Image.fromarray(pixels).resize((wide, high), Image.Resampling.BOX), (left, top))
    if box is not None:
        pen = ImageDraw.Draw(sheet)
        columns = _pixel_range(left + box.left * scale, left + (box.left + box.side) * scale, side)
        rows = _pixel_range(top + box.top * scale, top + (box.top + box.side) * scale, side)
        for inset, colour in enumerate((ORANGE, WHITE)):
            if min(columns[1] - columns[0], rows[1] - rows[0]) >= 2 * inset:
                corners = (columns[0] + inset, rows[0] + inset, columns[1] - inset, rows[1] - inset)
                pen.rectangle(corners, outline=colour)
    return np.array(sheet)


def _pixel_range(start: float, end: float, side: int) -> tuple[int, int]:
    """Return the first and last pixel of an interval, clipped to a cell of ``side`` pixels.

    It has at least one pixel.
    """
    first = min(max(0, round(start)), side - 1)
    return first, max(first, min(side, round(end)) - 1)
