"""Images as arguments of the Python API: a file name, a Pillow image or an array; one or several."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.images.decode import decode, to_opaque_rgb
from dalle_jax.images.header import BadImage, Limits
from dalle_jax.untrusted import read_file

ImageInput: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""One image: a file name, a Pillow image or an array uint8 [H W 3].

Files are decoded by ``decode``; transparent parts become white.
"""


def load_pixels(given: ImageInput, name: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """Return the pixels of one image.

    ``name`` is the argument's name in errors. Raises ``UserError`` for an argument of a different type, and for a file
    that cannot be decoded.
    """
    if isinstance(given, Image.Image | str | os.PathLike):
        try:
            if isinstance(given, Image.Image):
                return np.asarray(to_opaque_rgb(given))
            return decode(read_file(Path(given), Limits().bytes))
        except BadImage as error:
            raise UserError(f"{name if isinstance(given, Image.Image) else given}: {error}") from error
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3:
        return given
    raise UserError(f"{name}: expected a file name, a Pillow image or uint8 [H W 3], got {_describe(given)}")


def load_all_pixels(given: ImageInput | Sequence[ImageInput], name: str = "images") -> list[UInt8[np.ndarray, "H W 3"]]:
    """Return the pixels of one image or of several: a sequence, or an array uint8 [B H W 3]."""
    if isinstance(given, Image.Image | str | os.PathLike) or (isinstance(given, np.ndarray) and given.ndim == 3):
        return [load_pixels(given, name)]
    if not isinstance(given, Sequence | np.ndarray) or len(given) == 0:
        raise UserError(f"{name}: expected one image or several, got {_describe(given)}")
    return [load_pixels(one, f"{name}[{number}]") for number, one in enumerate(given)]


def stack_images(images: Sequence[UInt8[np.ndarray, "H W 3"]], name: str = "images") -> UInt8[np.ndarray, "B H W 3"]:
    """Stack images into one array. Raises ``UserError`` if their sizes differ."""
    sizes = sorted({one.shape[:2] for one in images})
    if len(sizes) > 1:
        listed = " and ".join(f"{width} x {height}" for height, width in sizes[:4])
        raise UserError(f"{name}: expected images of one size, got {listed} px")
    return np.stack(images)


def _describe(given: object) -> str:
    if isinstance(given, np.ndarray):
        return f"{given.dtype.name}{list(given.shape)}"
    return "nothing" if isinstance(given, Sequence) and not given else type(given).__name__
