"""Inpainting and outpainting of images of any size (DALL·E 2, arXiv 2204.06125; GLIDE, arXiv 2112.10741, section 2.3).

An image keeps its size, its mode and every pixel that is not to be filled; its format too, if that is lossless.
"""

from dataclasses import dataclass, field
from typing import Unpack

import numpy as np
from PIL import Image

from dalle_jax.arrays import Bool, Float, Int, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.editable import EditableImage, Margins, load_editable
from dalle_jax.images.inputs import ImageInput
from dalle_jax.images.masks import MaskInput, load_mask
from dalle_jax.pipelines.edits.filler import HoleFiller
from dalle_jax.pipelines.edits.holes import Hole, fill_holes
from dalle_jax.pipelines.edits.windows import windows_about, windows_beside
from dalle_jax.pipelines.request import RequestKeywords

CONTEXT = 1 / 6
"""The width of the context about a hole or a tile, on either side, as a share of its longer side.

The hole is then 3/4 of the window, which holds the largest objects of the scenes (0.62 of an image).
"""


@dataclass(frozen=True, eq=False)
class FilledImage:
    """The kept results of an edit, best first: in RGB, and as ``images`` in the mode of the image.

    ``scores`` is CLIP's mean similarity of the prompt with the windows, None without a CLIP. ``source`` is the image
    before the edit, with its ``hidden`` pixels; ``encode`` of it writes a result in the image's format without loss.
    """

    prompt: str
    pixels: UInt8[np.ndarray, "k H W 3"] = field(repr=False)
    scores: Float[np.ndarray, " k"] | None
    chosen: Int[np.ndarray, " k"]
    source: EditableImage = field(repr=False)
    hidden: Bool[np.ndarray, "H W"] = field(repr=False)

    @property
    def images(self) -> list[Image.Image]:
        """The kept results as Pillow images, in the mode of the image."""
        return [self.source.filled(one, self.hidden) for one in self.pixels]


def inpaint(
    filler: HoleFiller,
    image: ImageInput,
    prompt: str,
    *,
    mask: MaskInput | None = None,
    context: float = CONTEXT,
    **options: Unpack[RequestKeywords],
) -> FilledImage:
    """Fill the masked pixels of an image with what ``prompt`` says; all others stay to the last bit.

    ``mask`` is read by ``images/masks.py``; without one the transparent pixels of the image are filled. The prompt
    describes the window, a square that is larger than the hole by ``context`` of its longer side on either side.
    ``options`` are fields of ``RequestOptions``. Raises ``UserError`` for a mask that does not fit the image.
    """
    _check_context(context)
    source = load_editable(image)
    chosen = source.transparent() if mask is None else mask
    if chosen is None:
        raise UserError("mask: expected one for an image without transparency, got none; give --mask FILE")
    hidden = load_mask(chosen, *source.size, name="image" if mask is None else "mask")
    windows = windows_about(hidden, context, filler.side // 2)
    return _filled(filler, source, Hole(source.pixels, hidden, windows, prompt, filler.options(**options)))


def outpaint(
    filler: HoleFiller,
    image: ImageInput,
    prompt: str,
    *,
    left: int = 0,
    right: int = 0,
    top: int = 0,
    bottom: int = 0,
    context: float = CONTEXT,
    **options: Unpack[RequestKeywords],
) -> FilledImage:
    """Extend an image by pixels on any sides; the given ones stay to the last bit.

    The margins are filled tile by tile, each in a window that shows ``context`` of its longer side on either side. A
    tile is no larger than the image's shorter side, so that its content has the image's scale. The prompt describes
    each window. Raises ``UserError`` if no side is extended.
    """
    _check_context(context)
    margins = Margins(left, right, top, bottom)
    if min(margins) < 0 or not any(margins):
        raise UserError(f"left, right, top, bottom: expected 0 or more, and one above 0, got {tuple(margins)}")
    given = load_editable(image)
    source, hidden = given.extended(margins)
    windows = windows_beside(given.size, margins, context)
    return _filled(filler, source, Hole(source.pixels, hidden, windows, prompt, filler.options(**options)))


ANCHORS = ("center", "left", "right", "top", "bottom", "top-left", "top-right", "bottom-left", "bottom-right")
"""Places of the given image in a larger one."""


def margins_of(size: tuple[int, int], larger: tuple[int, int], anchor: str) -> Margins:
    """Return the margins that make an image of ``size`` (width, height) ``larger``, with the image at ``anchor``."""
    if anchor not in ANCHORS:
        raise UserError(f"anchor: expected one of {', '.join(ANCHORS)}, got {anchor}")
    wide, high = larger[0] - size[0], larger[1] - size[1]
    if min(wide, high) < 0:
        raise UserError(
            f"size: expected at least that of the image, {size[0]}x{size[1]} px, got {larger[0]}x{larger[1]}"
        )
    left = 0 if "left" in anchor else wide if "right" in anchor else wide // 2
    top = 0 if "top" in anchor else high if "bottom" in anchor else high // 2
    return Margins(left, wide - left, top, high - top)


def _check_context(context: float) -> None:
    if not 0.0 <= context <= 100.0:
        raise UserError(f"context: expected between 0 and 100, got {context}")


def _filled(filler: HoleFiller, source: EditableImage, hole: Hole) -> FilledImage:
    """Fill a hole of an image."""
    (found,) = fill_holes(filler, [hole])
    return FilledImage(hole.prompt, found.pixels, found.scores, found.chosen, source, hole.hidden)
