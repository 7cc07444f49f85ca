"""Square crops for training: DALL·E 1's random crop, or the middle square."""

import math
import random
from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image

ROUNDING = 1e-3
"""Pixels by which a box inside an image may exceed it, since its size was computed in floating point."""


@dataclass(frozen=True)
class Box:
    """A square part of an image of known size, in its pixels; fractions are allowed."""

    left: float
    top: float
    side: float


def random_box(width: int, height: int, size: int, rng: random.Random) -> Box:
    """Draw the region that a training crop shows at ``size`` pixels a side.

    This is the random crop of DALL·E 1 (arXiv 2102.12092, listing 2):

    1. Take the largest square, with its corner in the middle quarter of the margin.
    2. Resize it to t pixels a side, t uniform in ``size`` … 9/8 ``size``, but no larger than the image.
    3. Take a random square of ``size`` pixels a side from the resized one.

    An image whose shorter side is less than ``size``, a case that the paper does not have, is not cropped along that
    side. Images are not mirrored, since they contain writing. The paper leaves out images with aspect ratios beyond
    1:2; ``Filters`` can do so.
    """
    side = min(width, height)
    left, top = _corner_near_the_middle(width - side, rng), _corner_near_the_middle(height - side, rng)
    between = rng.randint(size, max(size, min(side, round(9 / 8 * size))))
    right, down = rng.randint(0, between - size), rng.randint(0, between - size)
    return Box(left + right * side / between, top + down * side / between, side * size / between)


def area_box(width: int, height: int, least: float, rng: random.Random) -> Box:
    """Draw a square whose side is a share sqrt(a) of the shorter side, a uniform from ``least`` to 1.

    It is the crop of open_clip's training, ``RandomResizedCrop`` with scale (0.9, 1), with an aspect ratio of 1.
    """
    side = min(width, height) * math.sqrt(rng.uniform(least, 1.0))
    return Box(rng.uniform(0, width - side), rng.uniform(0, height - side), side)


def jittered_box(width: int, height: int, rng: random.Random) -> Box:
    """Draw a square that contains the whole image and is up to 9/8 as large as its longer side.

    The image comes to lie anywhere in it, so all of it is kept, and nothing is mirrored or turned.
    """
    side = max(width, height) * rng.uniform(1, 9 / 8)
    return Box(rng.uniform(width - side, 0), rng.uniform(height - side, 0), side)


def centre_box(width: int, height: int) -> Box:
    """Return the largest square in the middle of an image."""
    side = min(width, height)
    return Box(float((width - side) // 2), float((height - side) // 2), float(side))


def crop_image(
    image: Image.Image,
    box: Box,
    size: int,
    of: tuple[int, int] | None = None,
    outside: tuple[int, int, int] = (255, 255, 255),
) -> UInt8[np.ndarray, "size size 3"]:
    """Crop a box and resize it to ``size`` pixels a side.

    The Lanczos filter does not use pixels outside the box. A box that is larger than the image is filled up with the
    colour that its four corners share, such as that of a uniform ground, or else with ``outside``.

    ``of`` is the width and height that the box refers to, if ``image`` was decoded at a reduced size
    (``decode(min_side=…)``).
    """
    width, height = image.size
    across, down = (width / of[0], height / of[1]) if of else (1.0, 1.0)
    left, top = box.left * across, box.top * down
    if box.side * across > width + ROUNDING or box.side * down > height + ROUNDING:
        return _crop_beyond(image, (left, top, left + box.side * across, top + box.side * down), size, outside)
    right, bottom = min(left + box.side * across, width), min(top + box.side * down, height)
    column, row = math.floor(left), math.floor(top)
    part = image.crop((column, row, math.ceil(right), math.ceil(bottom)))
    inside = (left - column, top - row, right - column, bottom - row)
    square = part.resize((size, size), Image.Resampling.LANCZOS, box=inside)
    return np.frombuffer(square.tobytes(), np.uint8).reshape(size, size, 3)  # a third faster than np.array


def _crop_beyond(
    image: Image.Image, box: tuple[float, float, float, float], size: int, outside: tuple[int, int, int]
) -> UInt8[np.ndarray, "size size 3"]:
    """Crop a box that contains the image; what is outside has the colour of the corners, or ``outside``."""
    width, height = image.size
    corners = {image.getpixel((x, y)) for x in (0, width - 1) for y in (0, height - 1)}
    left, top = math.ceil(-box[0]), math.ceil(-box[1])
    right, bottom = math.ceil(box[2] - width), math.ceil(box[3] - height)
    canvas = Image.new(
        "RGB", (left + width + right, top + height + bottom), corners.pop() if len(corners) == 1 else outside
    )
    canvas.paste(image, (left, top))
    inside = (box[0] + left, box[1] + top, box[2] + left, box[3] + top)
    square = canvas.resize((size, size), Image.Resampling.LANCZOS, box=inside)
    return np.frombuffer(square.tobytes(), np.uint8).reshape(size, size, 3)


def _corner_near_the_middle(margin: int, rng: random.Random) -> int:
    low = 3 * margin // 8
    return rng.randrange(low, max(low + 1, 5 * margin // 8))
