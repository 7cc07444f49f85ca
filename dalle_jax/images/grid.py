"""Image grids with captions, and with green or red frames for right or wrong images."""

import textwrap
from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

RIGHT, WRONG, PLAIN = (30, 150, 60), (210, 40, 40), (255, 255, 255)
FRAME, GAP, LINE = 3, 6, 13
MOST_LETTERS = 300
"""The number of letters of a caption that are shown."""


def grid(
    images: Sequence[np.ndarray],
    columns: int,
    captions: Sequence[str] | None = None,
    marks: Sequence[bool | None] | None = None,
    scale: int = 1,
) -> UInt8[np.ndarray, "height width 3"]:
    """Lay out images (uint8 [H W 3], all of one size) row by row, enlarged ``scale`` times.

    The first 300 letters of each of ``captions`` are wrapped under its image. ``marks`` give a green frame (True), a
    red frame (False) or no frame (None).
    """
    if not images:
        raise ValueError("expected at least one image for a grid, got none")
    height, width = images[0].shape[0] * scale, images[0].shape[1] * scale
    cell_width = width + 2 * FRAME + GAP
    wrapped = _wrap(captions, cell_width - 2 * FRAME)
    cell_height = height + 2 * FRAME + GAP + LINE * max((len(lines) for lines in wrapped), default=0)
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * cell_width + GAP, rows * cell_height + GAP), PLAIN)
    pen = ImageDraw.Draw(sheet)
    for index, image in enumerate(images):
        left = GAP + index % columns * cell_width
        top = GAP + index // columns * cell_height
        mark = marks[index] if marks is not None else None
        if mark is not None:
            pen.rectangle(
                (left, top, left + width + 2 * FRAME - 1, top + height + 2 * FRAME - 1), RIGHT if mark else WRONG
            )
        enlarged = Image.fromarray(image).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (left + FRAME, top + FRAME))
        for number, line in enumerate(wrapped[index] if wrapped else ()):
            pen.text((left + FRAME, top + height + 2 * FRAME + LINE * number), line, fill=(40, 40, 40), font=_font())
    return np.array(sheet)


def _wrap(captions: Sequence[str] | None, width: int) -> list[list[str]]:
    """Wrap each caption to lines of at most ``width`` pixels."""
    if captions is None:
        return []
    return [_wrap_line(_printable(textwrap.shorten(one[: 2 * MOST_LETTERS], MOST_LETTERS, placeholder=" …")), width)
            for one in captions]  # fmt: skip


def _wrap_line(text: str, width: int) -> list[str]:
    """Wrap a text to lines of at most ``width`` pixels, and return the lines.

    Lines have at most n characters, with the largest n for which the widest line fits. A line of up to six characters
    may be wider.
    """
    font = _font()
    letters = max(6, int(width / max(font.getlength("abcdefghij") / 10, 1)))
    lines = textwrap.wrap(text, letters) or [""]
    while letters > 6 and max(map(font.getlength, lines)) > width:
        letters -= 1
        lines = textwrap.wrap(text, letters) or [""]
    return lines


def _printable(text: str) -> str:
    """Replace letters that the font does not have by "?". Pillow without FreeType only has a Latin-1 font."""
    return text if isinstance(_font(), ImageFont.FreeTypeFont) else text.encode("latin-1", "replace").decode("latin-1")


def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default()
