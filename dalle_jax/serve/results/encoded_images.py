"""Image files of results: size, format, and the origin written into each."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from PIL import Image, PngImagePlugin

from dalle_jax.arrays import UInt8
from dalle_jax.images.pixels import resize
from dalle_jax.serve.results.provenance import Provenance

FileFormat: TypeAlias = Literal["png", "jpeg", "webp", "gif"]
MEDIA_TYPES: dict[FileFormat, str] = {form: f"image/{form}" for form in ("png", "jpeg", "webp", "gif")}
LARGEST_SIDE, LARGEST_PIXELS = 4096, 3840 * 2160
"""Bounds of the size that a request may ask for."""


@dataclass(frozen=True)
class FileOptions:
    """The form of a result's file. ``size`` is (width, height), None the image's own; ``duration`` is in ms."""

    form: FileFormat = "png"
    compression: int = 100
    size: tuple[int, int] | None = None
    duration: int = 200


def fit(pixels: UInt8[np.ndarray, "H W 3"], size: tuple[int, int] | None) -> UInt8[np.ndarray, "h w 3"]:
    """Scale an image so that it covers ``size`` (width, height), and cut its middle; None keeps it."""
    if size is None or (pixels.shape[1], pixels.shape[0]) == size:
        return pixels
    width, height = size
    scale = max(width / pixels.shape[1], height / pixels.shape[0])
    wide, high = max(width, round(pixels.shape[1] * scale)), max(height, round(pixels.shape[0] * scale))
    left, top = (wide - width) // 2, (high - height) // 2
    return np.ascontiguousarray(resize(pixels, high, wide)[top : top + height, left : left + width])


def encode(pixels: UInt8[np.ndarray, "H W 3"], options: FileOptions, origin: Provenance) -> bytes:
    """Encode one image with its origin."""
    image, out = Image.fromarray(fit(pixels, options.size)), io.BytesIO()
    if options.form == "png":
        info = PngImagePlugin.PngInfo()
        for key, value in origin.text().items():
            info.add_itxt(key, value)
        info.add_itxt("XML:com.adobe.xmp", origin.xmp().decode())
        image.save(out, "PNG", pnginfo=info)
    elif options.form == "jpeg":
        image.save(out, "JPEG", quality=max(1, options.compression), xmp=origin.xmp())
    elif options.form == "webp":
        lossless = options.compression == 100
        image.save(out, "WEBP", quality=options.compression, lossless=lossless, xmp=origin.xmp())
    else:
        image.save(out, "GIF", comment=origin.xmp())
    return out.getvalue()


def encode_gif(frames: Sequence[UInt8[np.ndarray, "H W 3"]], options: FileOptions, origin: Provenance) -> bytes:
    """Encode frames as a GIF that repeats; the last is the finished image."""
    first, *rest = (Image.fromarray(fit(one, options.size)) for one in frames)
    out, delay = io.BytesIO(), max(10, round(options.duration / 10) * 10)
    first.save(out, "GIF", save_all=True, append_images=rest, duration=delay, loop=0, comment=origin.xmp())
    return out.getvalue()
