"""Masks: the pixels of an image that are to be filled, from a file, a Pillow image or an array.

A mask with an alpha channel follows OpenAI's Images API: transparent pixels are filled. A mask without one is read by
its grey values: white pixels are filled.
"""

import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Bool
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.images.decode import decode_own
from dalle_jax.images.header import BadImage, Limits, read_header
from dalle_jax.untrusted import read_file

MaskInput: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""A mask. An array is bool [H W], True where pixels are filled, or uint8 [H W], [H W 3] or [H W 4] as in a file."""

_MIDDLE = {"1": 1, "L": 128, "I;16": 32_768}
"""The smallest value that counts as white, by Pillow's mode."""


def load_mask(given: MaskInput, width: int, height: int, name: str = "mask") -> Bool[np.ndarray, "H W"]:
    """Return True for the pixels to fill of an image of ``width`` times ``height`` pixels.

    ======================= =============================================================
    mask                    pixels to fill
    ======================= =============================================================
    with alpha (LA, RGBA)   those of an alpha below 128 of 255
    grey (1, L, 16 bit)     those of at least half of white
    RGB, all of it grey     as grey
    palette                 as the colours, or the alpha, that it stands for
    bool [H W]              those that are True
    ======================= =============================================================

    A mask may fill all pixels. Raises ``UserError`` if it fills none, has colours or another size, or is CMYK.
    """
    hidden = _hidden(given, name)
    if hidden.shape != (height, width):
        raise UserError(
            f"{name}: expected {width} x {height} px, the size of the image, "
            f"got {hidden.shape[1]} x {hidden.shape[0]} px"
        )
    if not hidden.any():
        raise UserError(
            f"{name}: expected at least one pixel to fill, got none; pixels to fill are transparent, or white in a "
            "mask without transparency"
        )
    return hidden


def transparent(alpha: np.ndarray) -> Bool[np.ndarray, "H W"]:
    """Return the pixels that are more transparent than opaque, of an alpha channel of 8 bits."""
    return alpha < 128


def _hidden(given: MaskInput, name: str) -> Bool[np.ndarray, "H W"]:
    if isinstance(given, np.ndarray):
        if given.ndim == 2 and given.dtype == np.bool_:
            return given
        channels = 1 if given.ndim == 2 else given.shape[-1]
        if given.dtype != np.uint8 or given.ndim not in (2, 3) or channels not in (1, 3, 4):
            raise UserError(
                f"{name}: expected bool [H W] or uint8 [H W], [H W 3] or [H W 4], got "
                f"{given.dtype.name}{list(given.shape)}"
            )
        return _of_image(Image.fromarray(given[..., 0] if given.ndim == 3 and channels == 1 else given), name)
    if isinstance(given, Image.Image):
        return _of_image(given, name)
    try:
        image = decode_own(read_header(read_file(Path(given), Limits().bytes), Limits()))
    except BadImage as error:
        raise UserError(f"{given}: {error}") from error
    return _of_image(image, f"{given}")


def _of_image(image: Image.Image, name: str) -> Bool[np.ndarray, "H W"]:
    if image.mode in ("LA", "RGBA", "PA") or "transparency" in image.info:
        return transparent(np.asarray(image.convert("RGBA"))[..., 3])
    mode = "I;16" if image.mode.startswith("I;16") else image.mode
    if mode in _MIDDLE:
        return np.asarray(image) >= _MIDDLE[mode]
    if mode not in ("RGB", "P"):
        raise UserError(f"{name}: expected a mask with alpha, in grey, or RGB, got mode {image.mode}")
    colours = np.asarray(image.convert("RGB"))
    if (colours != colours[..., :1]).any():
        raise UserError(
            f"{name}: expected transparency, or grey values where white is filled, got colours without transparency "
            f"(mode {image.mode})"
        )
    return colours[..., 0] >= _MIDDLE["L"]
