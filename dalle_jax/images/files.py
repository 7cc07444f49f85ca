"""Picture files: bytes of strangers to pixels, with limits checked before decoding, and pixels to PNG files."""

import io
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, PngImagePlugin

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.storage import Place

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")


@dataclass(frozen=True)
class Limits:
    """What is refused before a picture is decoded; ``pixels`` is width times height."""

    bytes: int = 50_000_000
    pixels: int = 50_000_000
    side: int = 20_000


class BadPictureError(Exception):
    """Bytes that are no picture, or one outside the limits. The message says which, for a report of bad records."""


def decode(
    data: bytes, limits: Limits | None = None, background: tuple[int, int, int] = (255, 255, 255)
) -> UInt8[np.ndarray, "H W 3"]:
    """The picture in ``data``, turned as its EXIF says and with transparent parts over ``background``.

    Raises ``BadPictureError`` for everything else: no picture, a format outside ``FORMATS``, too large, truncated.
    """
    limits = limits or Limits()
    if len(data) > limits.bytes:
        raise BadPictureError(f"file of {len(data)} bytes, at most {limits.bytes} are read")
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)  # reads the header alone
        width, height = image.size
        if width * height > limits.pixels or max(width, height) > limits.side:
            raise BadPictureError(
                f"{width}x{height} pixels, at most {limits.pixels} and {limits.side} a side are decoded"
            )
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image), background)
    except BadPictureError:
        raise
    except Exception as error:  # Pillow raises a dozen kinds of error on broken files
        raise BadPictureError(
            f"not a picture that can be read: {' '.join(str(error).split()) or type(error).__name__}"
        ) from error


def encode_png(pixels: UInt8[np.ndarray, "H W 3"], text: Mapping[str, str] | None = None) -> bytes:
    """A PNG file; ``text`` (a prompt, a seed) goes into its metadata as UTF-8."""
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", pnginfo=info)
    return out.getvalue()


def png_text(data: bytes) -> dict[str, str]:
    """The text metadata of a PNG file."""
    image = Image.open(io.BytesIO(data), formats=("PNG",))
    image.load()
    return {str(key): str(value) for key, value in image.info.items() if isinstance(value, str)}


def write_png(path: str | Place, pixels: UInt8[np.ndarray, "H W 3"], text: Mapping[str, str] | None = None) -> None:
    """Write a PNG file whole or not at all."""
    write_bytes(path, encode_png(pixels, text))


def write_bytes(path: str | Place, data: bytes) -> None:
    """Write a file aside and rename it into place, so that no reader ever sees half of it.

    Folders are made. Raises ``UserError`` where the disk is full or the folder cannot be written.
    """
    try:
        storage.write(storage.place(path), data)
    except OSError as error:
        raise UserError(
            f"cannot write {path}: {error.strerror or error}. Free some space or name another folder"
        ) from error


def _to_rgb(image: Image.Image, background: tuple[int, int, int]) -> np.ndarray:
    """RGB pixels of any mode; 16-bit grey is scaled, transparency is laid over ``background``."""
    if image.mode.startswith("I"):
        grey = np.asarray(image, np.int64)
        grey8 = (np.clip(grey, 0, 65_535) >> 8).astype(np.uint8) if grey.max(initial=0) > 255 else grey.astype(np.uint8)
        image = Image.fromarray(grey8)
    if "A" in image.getbands() or "transparency" in image.info:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*background, 255)), layer)
    return np.array(image.convert("RGB"))
