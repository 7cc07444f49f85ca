"""Pixels to PNG files, and files written whole or not at all."""

import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.storage import Place


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
