"""Signed distance fields of shapes, and bitmaps of letters, for ``render``.

A shape's distance field is computed once on a fine grid over [-REACH, REACH]^2, in units of its half width, y down.
Drawing at any position and size is then a look-up: coverage = clip(1/2 - distance in pixels, 0, 1).
"""

from functools import cache

import numpy as np
from jaxtyping import Float

REACH = 1.6
RESOLUTION = 512

_GLYPHS = {
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "B": "####. #...# #...# ####. #...# #...# ####.",
    "C": ".#### #.... #.... #.... #.... #.... .####",
    "D": "####. #...# #...# #...# #...# #...# ####.",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "F": "##### #.... #.... ####. #.... #.... #....",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "I": "##### ..#.. ..#.. ..#.. ..#.. ..#.. #####",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
    "O": ".###. #...# #...# #...# #...# #...# .###.",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "S": ".#### #.... #.... .###. ....# ....# ####.",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
    "Z": "##### ....# ...#. ..#.. .#... #.... #####",
}
GLYPH_ROWS, GLYPH_COLUMNS, GLYPH_GAP = 7, 5, 2


@cache
def distance_table(shape: str) -> Float[np.ndarray, "n n"]:
    """Return the signed distance field of a shape, negative inside; rows are y, columns x. Its half width is 1."""
    ticks = (np.arange(RESOLUTION) + 0.5) / RESOLUTION * 2 * REACH - REACH
    y, x = np.meshgrid(ticks, ticks, indexing="ij")
    match shape:
        case "circle":
            table = np.hypot(x, y) - 1.0
        case "ring":
            table = np.abs(np.hypot(x, y) - 0.76) - 0.29
        case _:
            table = _polygon(x, y, _CORNERS[shape]())
    return table.astype(np.float32)


@cache
def word_bitmap(word: str) -> Float[np.ndarray, "7 columns"]:
    """Return the bitmap of a word, 1 for ink: five columns for each letter, two empty columns between letters."""
    gap = np.zeros((GLYPH_ROWS, GLYPH_GAP), np.float32)
    parts: list[np.ndarray] = []
    for letter in word:
        rows = _GLYPHS[letter].split()
        parts += [gap] * bool(parts) + [np.array([[c == "#" for c in row] for row in rows], np.float32)]
    return np.concatenate(parts, axis=1)


def _polygon(x: np.ndarray, y: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Compute the signed distance to a simple polygon: the nearest edge, with the sign from the crossing number."""
    squared = np.full(x.shape, np.inf)
    inside = np.zeros(x.shape, bool)
    for (ax, ay), (bx, by) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
        ex, ey = bx - ax, by - ay
        along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey), 0, 1)
        squared = np.minimum(squared, (x - ax - along * ex) ** 2 + (y - ay - along * ey) ** 2)
        if ey != 0:
            inside ^= ((ay > y) != (by > y)) & (x < ax + (y - ay) * ex / ey)
    return np.sqrt(squared) * np.where(inside, -1, 1)


def _square() -> np.ndarray:
    return np.array([(-0.92, -0.92), (0.92, -0.92), (0.92, 0.92), (-0.92, 0.92)])


def _triangle() -> np.ndarray:
    return np.array([(0, -0.92), (1.05, 0.88), (-1.05, 0.88)])


def _cross() -> np.ndarray:
    a, b = 0.35, 1.02
    return np.array(
        [(-a, -b), (a, -b), (a, -a), (b, -a), (b, a), (a, a), (a, b), (-a, b), (-a, a), (-b, a), (-b, -a), (-a, -a)]
    )


def _heart() -> np.ndarray:
    t = np.arange(40) / 40 * 2 * np.pi
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return np.stack([x / 15.6, -(y + 2.5) / 15.6], axis=1)


_CORNERS = {"square": _square, "triangle": _triangle, "cross": _cross, "heart": _heart}
