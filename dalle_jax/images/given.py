"""Pictures as users hand them over in Python: a file's name, an image of Pillow's, or an array; one or several."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.images.decode import decode, opaque
from dalle_jax.images.header import BadPicture

Picture: TypeAlias = str | os.PathLike[str] | Image.Image | np.ndarray
"""One picture. An array is uint8 [H W 3]; a file is read as ``decode`` reads it; what is transparent lies on white."""


def pixels_of(given: Any, name: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """The pixels of one picture; UserError, naming the argument ``name``, for what is none."""
    if isinstance(given, Image.Image | str | os.PathLike):
        try:
            return np.asarray(opaque(given)) if isinstance(given, Image.Image) else decode(Path(given).read_bytes())
        except BadPicture as error:
            raise UserError(f"{name if isinstance(given, Image.Image) else given}: {error}") from error
    if isinstance(given, np.ndarray) and given.dtype == np.uint8 and given.ndim == 3 and given.shape[2] == 3:
        return given
    raise UserError(f"{name}: expected a file's name, an image of Pillow's or uint8 [H W 3], got {_said(given)}")


def pictures_of(given: Picture | Sequence[Picture], name: str = "pictures") -> list[UInt8[np.ndarray, "H W 3"]]:
    """The pixels of one picture or of several: a sequence, or an array uint8 [B H W 3]."""
    if isinstance(given, Image.Image | str | os.PathLike) or (isinstance(given, np.ndarray) and given.ndim == 3):
        return [pixels_of(given, name)]
    if not isinstance(given, Sequence | np.ndarray) or len(given) == 0:
        raise UserError(f"{name}: expected one picture or several, got {_said(given)}")
    return [pixels_of(one, f"{name}[{number}]") for number, one in enumerate(given)]


def same_size(pictures: Sequence[UInt8[np.ndarray, "H W 3"]], name: str = "pictures") -> UInt8[np.ndarray, "B H W 3"]:
    """Pictures of one size as one array; UserError where they have several."""
    sizes = sorted({one.shape[:2] for one in pictures})
    if len(sizes) > 1:
        said = " and ".join(f"{width} x {height}" for height, width in sizes[:4])
        raise UserError(f"{name}: expected pictures of one size, got {said} px")
    return np.stack(pictures)


def _said(given: Any) -> str:
    if isinstance(given, np.ndarray):
        return f"{given.dtype.name}{list(given.shape)}"
    return "nothing" if isinstance(given, Sequence) and not given else type(given).__name__
