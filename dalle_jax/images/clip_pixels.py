"""CLIP's image preprocessing, bit for bit as OpenAI's code and Hugging Face's do it.

Both resize the shorter side to the model's size with Pillow's bicubic filter and crop the middle square. Pillow rounds
to 8 bits between its two passes, so ``jax.image.resize`` gives different values; ``clip_pixels_device`` gives the same.
The two differ in two details, which show with odd sizes and palettes: the corner of the square, and the conversion to
RGB before or after resizing.
"""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import UInt8
from PIL import Image

Convention: TypeAlias = Literal["openai", "hugging_face"]
"""Rounding of the square's corner if it lies on half a pixel.

``openai``, as open_clip does it too, rounds to the even pixel; ``hugging_face`` rounds down.
"""


def clip_pixels(image: Image.Image, size: int, convention: Convention = "openai") -> UInt8[np.ndarray, "size size 3"]:
    """Return the middle square of an image, resized to ``size`` pixels a side, as CLIP preprocesses images."""
    if convention == "hugging_face":
        image = image.convert("RGB")
    width, height = image.size
    short, long = min(width, height), max(width, height)
    if short != size:
        longer = int(size * long / short)
        image = image.resize((size, longer) if width <= height else (longer, size), Image.Resampling.BICUBIC)
    left, top = (corner(side - size, convention) for side in image.size)
    return np.asarray(image.crop((left, top, left + size, top + size)).convert("RGB"))


def corner(margin: int, convention: Convention) -> int:
    """Return the first pixel of the square along an axis that is ``margin`` pixels longer."""
    return round(margin / 2) if convention == "openai" else margin // 2
