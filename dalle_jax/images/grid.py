"""Many pictures on one sheet, with captions under them and a frame that says right or wrong."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

RIGHT, WRONG, PLAIN = (30, 150, 60), (210, 40, 40), (255, 255, 255)
FRAME, GAP, LINE = 3, 6, 13


def grid(
    pictures: Sequence[np.ndarray],
    columns: int,
    captions: Sequence[str] | None = None,
    marks: Sequence[bool | None] | None = None,
    scale: int = 1,
) -> UInt8[np.ndarray, "height width 3"]:
    """Pictures (uint8 [H W 3], all of one size) from left to right and from top to bottom, enlarged ``scale`` times.

    ``captions`` stand under their pictures, wrapped; ``marks`` give a green frame (True), a red one (False) or none.
    """
    if not pictures:
        raise ValueError("a grid needs at least one picture")
    height, width = pictures[0].shape[0] * scale, pictures[0].shape[1] * scale
    cell_width = width + 2 * FRAME + GAP
    wrapped = _wrap(captions, cell_width - 2 * FRAME)
    cell_height = height + 2 * FRAME + GAP + LINE * max((len(lines) for lines in wrapped), default=0)
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    sheet = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + GAP), PLAIN)
    pen = ImageDraw.Draw(sheet)
    for place, picture in enumerate(pictures):
        left = GAP + place % columns * cell_width
        top = GAP + place // columns * cell_height
        mark = marks[place] if marks is not None else None
        if mark is not None:
            pen.rectangle(
                (left, top, left + width + 2 * FRAME - 1, top + height + 2 * FRAME - 1), RIGHT if mark else WRONG
            )
        image = Image.fromarray(picture).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(image, (left + FRAME, top + FRAME))
        for number, line in enumerate(wrapped[place] if wrapped else ()):
            pen.text((left + FRAME, top + height + 2 * FRAME + LINE * number), line, fill=(40, 40, 40), font=_font())
    return np.array(sheet)


def _wrap(captions: Sequence[str] | None, width: int) -> list[list[str]]:
    """Lines that fit below a cell of that many pixels."""
    if captions is None:
        return []
    return [_fitting(_printable(caption), width) for caption in captions]


def _fitting(text: str, width: int) -> list[str]:
    """Lines of so many letters that the widest of them fits, but of six at least."""
    font = _font()
    letters = max(6, int(width / max(font.getlength("abcdefghij") / 10, 1)))
    lines = textwrap.wrap(text, letters) or [""]
    while letters > 6 and max(map(font.getlength, lines)) > width:
        letters -= 1
        lines = textwrap.wrap(text, letters) or [""]
    return lines


def _printable(text: str) -> str:
    """Pillow without FreeType has a Latin-1 font only."""
    return text if isinstance(_font(), ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default()
