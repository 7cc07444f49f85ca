"""Captioned scenes: objects with a colour, a shape and a size, their arrangement, and the word on a sign.

A ``Scene`` holds exactly the content of its captions, so ``grammar.parse`` returns an equal scene for each of them. The
exact positions of objects are not part of it: ``render`` draws them from its random generator.
"""

from dataclasses import dataclass
from typing import Literal

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (222, 28, 30),
    "yellow": (252, 214, 0),
    "green": (20, 150, 50),
    "cyan": (0, 200, 230),
    "blue": (30, 60, 225),
    "purple": (125, 30, 150),
    "pink": (255, 80, 170),
    "black": (20, 20, 20),
}
PLAIN = (236, 236, 236)
"""The background colour if the caption names none."""

SHAPES = ("circle", "square", "triangle", "cross", "ring", "heart")
SIZES = ("small", "big")
COUNTS = (2, 3, 4)
LETTERS = "ABCDEFHIKLNOPRSTUXYZ"
LEVELS = (1, 2, 3, 4, 5, 6)

Arrangement = Literal["single", "vertical", "horizontal", "group", "stack", "sign"]
Split = Literal["train", "validation", "held_out", "prompted", "unnamed"]
"""The splits of scenes by their combinations of attributes (scenes/split.py)."""


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene. Only level 1 has a ``size``; at level 6 ``shape`` is "sign"."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """The content of a caption in canonical form.

    ``objects`` are ordered from top to bottom (vertical, stack) or from left to right (horizontal). So "a circle above
    a square" and "a square below a circle" are equal scenes. ``background`` is the name of a colour, None for the plain
    background. ``word`` is the text of a sign in capitals.
    """

    level: int
    arrangement: Arrangement
    objects: tuple[SceneObject, ...]
    background: str | None = None
    word: str | None = None
