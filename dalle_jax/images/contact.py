"""A picture as a cell of a contact sheet: whole, on grey, with the square that will be cut out of it."""

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from dalle_jax.images.crops import Box

GREY = (236, 236, 232)
INNER, OUTER = (255, 120, 0), (255, 255, 255)


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
        first = (round(left + box.left * scale), round(top + box.top * scale))
        last = (
            min(side, round(left + (box.left + box.side) * scale)) - 1,
            min(side, round(top + (box.top + box.side) * scale)) - 1,
        )
        inside = tuple(max(near, far) for near, far in zip((first[0] + 1, first[1] + 1), first, strict=True))
        pen.rectangle((*first, *last), outline=INNER)
        pen.rectangle((*inside, max(inside[0], last[0] - 1), max(inside[1], last[1] - 1)), outline=OUTER)
    return np.array(sheet)
