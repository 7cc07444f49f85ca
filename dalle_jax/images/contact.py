"""A picture as a cell of a contact sheet: whole, on grey, with the square that will be cut out of it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from dalle_jax.images.crops import Box

GREY = (236, 236, 232)
ORANGE, WHITE = (255, 120, 0), (255, 255, 255)


def cell(pixels: UInt8[np.ndarray, "H W 3"], side: int, box: Box | None = None) -> UInt8[np.ndarray, "side side 3"]:
    """The picture as large as it fits, in the middle; ``box`` is in its pixels and drawn in orange and white."""
    height, width = pixels.shape[:2]
    scale = side / max(height, width)
    wide, high = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (side - wide) // 2, (side - high) // 2
    sheet = Image.new("RGB", (side, side), GREY)
    sheet.paste(Image.fromarray(pixels).resize((wide, high), Image.Resampling.BOX), (left, top))
    if box is not None:
        pen = ImageDraw.Draw(sheet)
        across = _edges(left + box.left * scale, left + (box.left + box.side) * scale, side)
        down = _edges(top + box.top * scale, top + (box.top + box.side) * scale, side)
        for inset, colour in enumerate((ORANGE, WHITE)):
            if min(across[1] - across[0], down[1] - down[0]) >= 2 * inset:
                pen.rectangle((across[0] + inset, down[0] + inset, across[1] - inset, down[1] - inset), outline=colour)
    return np.array(sheet)


def _edges(start: float, end: float, side: int) -> tuple[int, int]:
    """The first and the last pixel of a length, one at least, within the cell."""
    first = min(max(0, round(start)), side - 1)
    return first, max(first, min(side, round(end)) - 1)
