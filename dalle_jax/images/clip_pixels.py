"""Pictures as CLIP was shown them, to the last bit: OpenAI's preprocessing and Hugging Face's.

Both shrink the shorter side to the model's size with Pillow's bicubic filter, which rounds to 8 bits between its two
passes as nothing in JAX does, and cut out the middle square. They differ in two things, which odd sizes and palettes
show: where the middle is, and whether colours become RGB before or after.
"""

from typing import Literal, TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

Convention: TypeAlias = Literal["openai", "hugging_face"]
"""``openai`` (open_clip too) rounds the corner of the square half to even, ``hugging_face`` down."""


def clip_pixels(picture: Image.Image, size: int, convention: Convention = "openai") -> UInt8[np.ndarray, "size size 3"]:
    """The picture's middle at ``size`` pixels a side."""
    if convention == "hugging_face":
        picture = picture.convert("RGB")
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    if short != size:
        longer = int(size * long / short)
        picture = picture.resize((size, longer) if width <= height else (longer, size), Image.Resampling.BICUBIC)
    left, top = (_corner(side - size, convention) for side in picture.size)
    return np.asarray(picture.crop((left, top, left + size, top + size)).convert("RGB"))


def normalised(
    pixels: UInt8[np.ndarray, "... 3"], mean: tuple[float, float, float], std: tuple[float, float, float]
) -> Float32[np.ndarray, "... 3"]:
    """``(pixels / 255 - mean) / std``, each step rounded to float32 as in the references."""
    values = pixels.astype(np.float32) / np.float32(255)
    return (values - np.array(mean, np.float32)) / np.array(std, np.float32)


def _corner(room: int, convention: Convention) -> int:
    return round(room / 2) if convention == "openai" else room // 2
