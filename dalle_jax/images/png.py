"""PNG files from pixels."""

import io
from collections.abc import Mapping

import numpy as np
from jaxtyping import UInt8
from PIL import Image, PngImagePlugin

from dalle_jax.storage import Place, write_bytes


def encode_png(
    pixels: UInt8[np.ndarray, "H W 3"] | UInt8[np.ndarray, "H W"], text: Mapping[str, str] | None = None
) -> bytes:
    """Encode an image, in colour or grey, as PNG; ``text`` (a prompt, a seed) goes into its metadata as UTF-8."""
    info = PngImagePlugin.PngInfo()
    for key, value in (text or {}).items():
        info.add_itxt(key, value)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", pnginfo=info)
    return out.getvalue()


def write_png(path: str | Place, pixels: UInt8[np.ndarray, "H W 3"], text: Mapping[str, str] | None = None) -> None:
    """Write a PNG file atomically. Raises ``UserError`` as ``storage.write_bytes`` does."""
    write_bytes(path, encode_png(pixels, text))
