"""Reader of one-colour icons: the colour of the glyph and that of the ground, from the pixels.

Every pixel of such an icon lies between the two colours, because edges and thin lines are blended. The reader takes the
ground from the frame of the image. Then it tries each colour of the glyph: the pixels are fitted as
``ground + a (colour - ground)`` with a in [0, 1], and the colour with the least squared error is the glyph's. Lines
that are thinner than a pixel are read by the direction of their tint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from dalle_jax.arrays import Float, UInt8

Palette = Mapping[str, tuple[int, int, int]]
GLYPHS: Palette = MappingProxyType(
    {
        "red": (224, 32, 32), "orange": (255, 140, 0), "yellow": (255, 213, 0), "green": (24, 160, 48),
        "blue": (32, 80, 224), "purple": (138, 43, 226), "pink": (255, 105, 180), "black": (0, 0, 0),
    }
)  # fmt: skip
"""Eight colours of glyphs, as sRGB."""
GROUNDS: Palette = MappingProxyType(
    {
        "white": (255, 255, 255), "black": (0, 0, 0), "gray": (150, 150, 150), "yellow": (255, 213, 0),
        "blue": (32, 80, 224), "green": (24, 160, 48),
    }
)  # fmt: skip
"""Six colours of grounds, as sRGB."""

FRAME = 1 / 16
"""The width of the frame from which the ground is read, as a share of the side."""
SAME_GROUND = 60.0
"""The largest distance in sRGB (0 to 255 an axis) between the frame's median and the colour of a ground."""
LEAST_INK = 0.005
"""The least share of the image that a glyph covers, faint pixels in proportion."""
LEAST_EXPLAINED = 0.9
"""The least share of the squared difference from the ground that one colour must explain."""


@dataclass(frozen=True)
class IconColours:
    """The names that were read; None if the image has no such colour, as an image of many colours has no glyph's."""

    glyph: str | None
    ground: str | None


def read_icon(image: UInt8[np.ndarray, "H W 3"], glyphs: Palette = GLYPHS, grounds: Palette = GROUNDS) -> IconColours:
    """Read the colour of the glyph and that of the ground."""
    frame = _frame_colour(image)
    ground = _nearest(frame, grounds)
    return IconColours(_read_glyph(image, frame, glyphs), ground)


def _frame_colour(image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, "3"]:
    """Return the median colour of the pixels along the four edges."""
    width = max(1, round(FRAME * min(image.shape[:2])))
    inner = np.zeros(image.shape[:2], bool)
    inner[width:-width, width:-width] = True
    return np.median(image[~inner].astype(np.float64), axis=0)


def _nearest(colour: Float[np.ndarray, "3"], palette: Palette) -> str | None:
    """Return the name of the nearest colour, or None if it is farther than ``SAME_GROUND``."""
    distances = {name: float(np.linalg.norm(colour - value)) for name, value in palette.items()}
    name = min(distances, key=distances.__getitem__)
    return name if distances[name] <= SAME_GROUND else None


def _read_glyph(image: UInt8[np.ndarray, "H W 3"], frame: Float[np.ndarray, "3"], glyphs: Palette) -> str | None:
    """Return the glyph's colour, or None for too little ink or more than one colour."""
    difference = image.reshape(-1, 3) - frame  # [N 3]
    whole = float((difference**2).sum())
    best, error, ink = None, np.inf, 0.0
    for name, value in glyphs.items():
        direction = np.asarray(value) - frame
        length = float(direction @ direction)
        if length <= SAME_GROUND**2:  # the ground's own colour
            continue
        amount = np.clip(difference @ direction / length, 0, 1)  # [N]
        squared = float(((difference - amount[:, None] * direction) ** 2).sum())
        if squared < error:
            best, error, ink = name, squared, float(amount.mean())
    return best if ink >= LEAST_INK and error <= (1 - LEAST_EXPLAINED) * whole else None
