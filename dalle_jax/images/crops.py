"""The square of a picture that a model sees: DALL·E 1's random one, or the middle. First a box is chosen, then cut."""

import math
import random
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image


@dataclass(frozen=True)
class Box:
    """A square in a picture of a known size, in its pixels; fractions are allowed."""

    left: float
    top: float
    side: float


def random_box(width: int, height: int, size: int, rng: random.Random) -> Box:
    """What the crop of DALL·E 1's transformer shows at ``size`` pixels a side, as a box (arXiv 2102.12092, listing 2).

    The largest square, from the middle quarter of the room that it has; that at t pixels a side, t being anything from
    ``size`` to 9/8 of it, but no more than the picture has; of that any ``size`` pixels a side. It is never mirrored,
    since pictures hold writing. A picture smaller than ``size`` (the paper's are not) is shown whole along its shorter
    side. That sides are within 1:2 of each other is no matter of the crop: the paper leaves out the others.
    """
    side = min(width, height)
    left, top = _about_the_middle(width - side, rng), _about_the_middle(height - side, rng)
    between = rng.randint(size, max(size, min(side, round(9 / 8 * size))))
    right, down = rng.randint(0, between - size), rng.randint(0, between - size)
    return Box(left + right * side / between, top + down * side / between, side * size / between)


def centre_box(width: int, height: int) -> Box:
    """The largest square in the middle."""
    side = min(width, height)
    return Box(float((width - side) // 2), float((height - side) // 2), float(side))


def cut(
    pixels: UInt8[np.ndarray, "H W 3"], box: Box, size: int, of: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """What is in a box, at ``size`` pixels a side, resized as ``resize`` does; what lies around it is not seen.

    ``of``: width and height of the picture that the box speaks of, where ``pixels`` are the same picture at a reduced
    size (``decode(at_least=…)``).
    """
    return cut_image(Image.fromarray(pixels), box, size, of)


def cut_image(
    image: Image.Image, box: Box, size: int, of: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """``cut`` from an image of Pillow's, which is spared the way into an array and back."""
    width, height = image.size
    across, down = (width / of[0], height / of[1]) if of else (1.0, 1.0)
    left, top = box.left * across, box.top * down
    right, bottom = min(left + box.side * across, width), min(top + box.side * down, height)
    column, row = math.floor(left), math.floor(top)
    part = image.crop((column, row, math.ceil(right), math.ceil(bottom)))
    inside = (left - column, top - row, right - column, bottom - row)
    square = part.resize((size, size), Image.Resampling.LANCZOS, box=inside)
    return np.frombuffer(square.tobytes(), np.uint8).reshape(size, size, 3)  # quicker than np.array by a third


def _about_the_middle(room: int, rng: random.Random) -> int:
    low = 3 * room // 8
    return rng.randrange(low, max(low + 1, 5 * room // 8))
