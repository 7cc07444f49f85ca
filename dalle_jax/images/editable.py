"""An image to edit: its pixels in their own mode, which an edit keeps to the last bit, and in RGB for a model."""

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.images.decode import decode_own, to_opaque_rgb
from dalle_jax.images.header import BadImage, Limits, read_header
from dalle_jax.images.inputs import ImageInput, load_pixels
from dalle_jax.images.masks import transparent
from dalle_jax.untrusted import read_file

OWN_MODES = ("RGB", "RGBA", "L", "LA", "I;16")
"""Pillow's modes that an edit keeps. Others become RGB, or RGBA if they have transparency; 1 bit becomes L."""
LOSSLESS = {"PNG": "png", "TIFF": "tif", "WEBP": "webp", "BMP": "bmp"}
"""Formats in which an edit is written, and their suffixes. JPEG and GIF, which would change every pixel, become PNG."""


class Margins(NamedTuple):
    """Pixels that are added to each side of an image."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


@dataclass(frozen=True, eq=False)
class EditableImage:
    """An image to edit.

    ``own`` are the pixels in Pillow's ``mode``: uint8 [H W] or [H W c], or uint16 [H W]. ``pixels`` are the same in
    RGB, transparent parts over white. ``format`` is that of the file, ``colours`` its ICC profile if it has one.
    """

    own: np.ndarray
    mode: str
    pixels: UInt8[np.ndarray, "H W 3"]
    format: str = "PNG"
    colours: bytes | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    @property
    def suffix(self) -> str:
        """The suffix of the file that ``encode`` makes."""
        return LOSSLESS[self._written]

    def transparent(self) -> Bool[np.ndarray, "H W"] | None:
        """Return the pixels that the image's own alpha hides; None without an alpha channel."""
        return transparent(self.own[..., -1]) if self.mode in ("LA", "RGBA") else None

    def filled(self, pixels: UInt8[np.ndarray, "H W 3"], hidden: Bool[np.ndarray, "H W"]) -> Image.Image:
        """Return the image with ``pixels`` in place of its ``hidden`` ones, opaque there; the others stay exactly."""
        own = self.own.copy()
        if self.mode in ("RGB", "RGBA"):
            own[..., :3][hidden] = pixels[hidden]
        else:
            grey = np.asarray(Image.fromarray(pixels).convert("L"))[hidden]
            if self.mode == "I;16":
                own[hidden] = grey.astype(np.uint16) * 257
            elif self.mode == "LA":
                own[..., 0][hidden] = grey
            else:
                own[hidden] = grey
        if self.mode in ("LA", "RGBA"):
            own[..., -1][hidden] = 255
        return Image.fromarray(own)

    def extended(self, margins: Margins) -> tuple["EditableImage", Bool[np.ndarray, "H W"]]:
        """Return the image with empty margins, and its pixels that are empty."""
        sides = ((margins.top, margins.bottom), (margins.left, margins.right))
        own, pixels = (np.pad(one, (*sides, (0, 0))[: one.ndim]) for one in (self.own, self.pixels))
        hidden = np.pad(np.zeros(self.pixels.shape[:2], bool), sides, constant_values=True)
        return replace(self, own=own, pixels=pixels), hidden

    def encode(self, image: Image.Image) -> bytes:
        """Encode an edit without loss, in the format of the image if that is lossless, else as PNG."""
        out = io.BytesIO()
        options = {"lossless": True, "exact": True} if self._written == "WEBP" else {}
        image.save(out, format=self._written, icc_profile=self.colours, **options)
        return out.getvalue()

    @property
    def _written(self) -> str:
        fits = self.mode == "RGB" if self.format == "BMP" else self.mode in ("RGB", "RGBA") or self.format != "WEBP"
        return self.format if self.format in LOSSLESS and fits else "PNG"


def load_editable(given: ImageInput, name: str = "image") -> EditableImage:
    """Read an image to edit: a file, a Pillow image, or uint8 [H W 3].

    Raises ``UserError`` for a file that is no image, and for modes whose pixels cannot be kept exactly (16 bits a
    colour channel, LAB).
    """
    if not isinstance(given, Image.Image | str | os.PathLike):
        pixels = load_pixels(given, name)
        return EditableImage(pixels, "RGB", pixels)
    if isinstance(given, Image.Image):
        return _of_image(given, given.format or "PNG", given.info.get("icc_profile"), name)
    content = read_file(Path(given), Limits().bytes)
    try:
        header = read_header(content, Limits())
        image = decode_own(header)
    except BadImage as error:
        raise UserError(f"{given}: {error}") from error
    colours = _colour_profile(content, header.format)
    return _of_image(image, header.format, colours, f"{given}")


def _colour_profile(content: bytes, form: str) -> bytes | None:
    """Return the ICC profile of a whole file. It is None if Pillow cannot read the file's metadata."""
    try:
        with Image.open(io.BytesIO(content), formats=(form,)) as whole:
            return whole.info.get("icc_profile")
    except Exception:  # Pillow raises a dozen kinds of error for broken metadata; the pixels were decoded without them
        return None


def _of_image(image: Image.Image, form: str, colours: bytes | None, name: str) -> EditableImage:
    try:
        pixels = np.asarray(to_opaque_rgb(image))
    except BadImage as error:
        raise UserError(f"{name}: {error}") from error
    opaque = "transparency" not in image.info
    if image.mode.startswith("I;16"):
        if not opaque:
            raise UserError(f"{name}: expected grey of 16 bits without transparency, got some; convert it to 8 bits")
        return EditableImage(np.asarray(image).astype(np.uint16), "I;16", pixels, form, colours)
    if image.mode not in OWN_MODES or not opaque:
        alpha = image.mode in ("PA", "La", "RGBa") or not opaque
        mode = "RGBA" if alpha else "L" if image.mode == "1" else "RGB"
        colours = None if image.mode == "CMYK" else colours  # a profile of four inks does not fit RGB
        image = image.convert(mode)
    return EditableImage(np.asarray(image), image.mode, pixels, form, colours)
