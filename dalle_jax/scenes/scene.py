"""What a captioned scene is made of: things with a colour, a shape and a size, how they stand, what is written on them.

A ``Scene`` says only what a caption can say. Where exactly the things stand is drawn by ``render`` from its own random
numbers, so that a scene equals the description which ``grammar.parse`` finds in any of its captions.
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
"""The background of a scene whose captions name none."""

SHAPES = ("circle", "square", "triangle", "cross", "ring", "heart")
SIZES = ("small", "big")
COUNTS = (2, 3, 4)
LETTERS = "ABCDEFHIKLNOPRSTUXYZ"
LEVELS = (1, 2, 3, 4, 5, 6)

Arrangement = Literal["single", "vertical", "horizontal", "group", "stack", "sign"]
Split = Literal["train", "validation", "held_out"]


@dataclass(frozen=True)
class Thing:
    """One object. ``size`` is named at level 1 only; ``shape`` is "sign" at level 6."""

    colour: str
    shape: str
    size: str | None = None


@dataclass(frozen=True)
class Scene:
    """What a caption says, in one canonical form.

    ``objects`` run from top to bottom (vertical, stack) or from left to right (horizontal), so "a circle above a
    square" and "a square below a circle" are one scene. ``background`` is a colour's name or None for the plain
    one; ``word`` is what a sign says, in capitals.
    """

    level: int
    arrangement: Arrangement
    objects: tuple[Thing, ...]
    background: str | None = None
    word: str | None = None
