"""Letters drawn as strokes, for signs that people and OCR programs read.

A letter stands in the same box of 5 x 7 cells as its bitmap in ``shapes.py``, with strokes of one cell's width. Its
distance field is computed once on a fine grid, in cells, as that of a shape.
"""

from functools import cache
from itertools import pairwise

import numpy as np
from jaxtyping import Float

from dalle_jax.scenes.shapes import GLYPH_COLUMNS, GLYPH_GAP, GLYPH_ROWS

MARGIN = 1.0
"""Cells around a letter's box that its distance field covers."""
FINE = 24
"""Points of a distance field along one cell."""

Points = list[tuple[float, float]]


def _arc(x: float, y: float, across: float, down: float, start: int, stop: int) -> Points:
    """Return points of an ellipse about (x, y), by angles in degrees: 0 is right, 90 is down."""
    angles = np.deg2rad(np.linspace(start, stop, 17))
    return [(x + across * float(np.cos(one)), y + down * float(np.sin(one))) for one in angles]


_UPRIGHT: Points = [(0.5, 0.5), (0.5, 6.5)]
_BOWL = [(0.5, 0.5), *_arc(2.8, 2.15, 1.7, 1.65, -90, 90), (0.5, 3.8)]
_STROKES: dict[str, list[Points]] = {
    "A": [[(0.4, 6.5), (2.5, 0.5), (4.6, 6.5)], [(1.2, 4.5), (3.8, 4.5)]],
    "B": [
        _UPRIGHT,
        [(0.5, 0.5), *_arc(2.6, 1.95, 1.5, 1.45, -90, 90), (0.5, 3.4)],
        [(2.6, 3.4), *_arc(2.8, 4.95, 1.7, 1.55, -90, 90), (0.5, 6.5)],
    ],
    "C": [_arc(2.7, 3.5, 2.2, 3.0, -48, -312)],
    "D": [_UPRIGHT, [(0.5, 0.5), *_arc(1.8, 3.5, 2.7, 3.0, -90, 90), (0.5, 6.5)]],
    "E": [[(4.3, 0.5), (0.5, 0.5), (0.5, 6.5), (4.3, 6.5)], [(0.5, 3.4), (3.7, 3.4)]],
    "F": [[(4.3, 0.5), (0.5, 0.5), (0.5, 6.5)], [(0.5, 3.4), (3.7, 3.4)]],
    "H": [_UPRIGHT, [(4.5, 0.5), (4.5, 6.5)], [(0.5, 3.5), (4.5, 3.5)]],
    "I": [[(2.5, 0.5), (2.5, 6.5)], [(1.0, 0.5), (4.0, 0.5)], [(1.0, 6.5), (4.0, 6.5)]],
    "K": [_UPRIGHT, [(4.4, 0.5), (0.5, 4.4)], [(1.9, 3.1), (4.5, 6.5)]],
    "L": [[(0.5, 0.5), (0.5, 6.5), (4.2, 6.5)]],
    "N": [[(0.5, 6.5), (0.5, 0.5), (4.5, 6.5), (4.5, 0.5)]],
    "O": [_arc(2.5, 3.5, 2.1, 3.0, 0, 360)],
    "P": [_UPRIGHT, _BOWL],
    "R": [_UPRIGHT, _BOWL, [(2.5, 3.8), (4.5, 6.5)]],
    "S": [[*_arc(2.5, 2.0, 1.9, 1.5, -35, -270), *_arc(2.5, 5.0, 2.0, 1.5, -90, 150)]],
    "T": [[(0.4, 0.5), (4.6, 0.5)], [(2.5, 0.5), (2.5, 6.5)]],
    "U": [[(0.5, 0.5), *_arc(2.5, 4.5, 2.0, 2.0, 180, 0), (4.5, 0.5)]],
    "X": [[(0.5, 0.5), (4.5, 6.5)], [(4.5, 0.5), (0.5, 6.5)]],
    "Y": [[(0.4, 0.5), (2.5, 3.6), (4.6, 0.5)], [(2.5, 3.6), (2.5, 6.5)]],
    "Z": [[(0.6, 0.5), (4.4, 0.5), (0.5, 6.5), (4.5, 6.5)]],
}


@cache
def letter_distances(letter: str) -> Float[np.ndarray, "r c"]:
    """Return the signed distance to a letter's ink in cells, negative inside, ``FINE`` points per cell."""
    rows, columns = (
        (np.arange((cells + 2 * MARGIN) * FINE) + 0.5) / FINE - MARGIN for cells in (GLYPH_ROWS, GLYPH_COLUMNS)
    )
    y, x = np.meshgrid(rows, columns, indexing="ij")
    nearest = np.full(x.shape, np.inf)
    for points in _STROKES[letter]:
        for (ax, ay), (bx, by) in pairwise(points):
            ex, ey = bx - ax, by - ay
            along = np.clip(((x - ax) * ex + (y - ay) * ey) / (ex * ex + ey * ey + 1e-12), 0, 1)
            nearest = np.minimum(nearest, np.hypot(x - ax - along * ex, y - ay - along * ey))
    return (nearest - 0.5).astype(np.float32)


def word_coverage(word: str, size: int, x: float, y: float, cell: float) -> Float[np.ndarray, "size size"]:
    """Return the share of each pixel that a word's ink covers.

    ``x`` and ``y`` are the word's centre and ``cell`` is the side of a cell, all in pixels.
    """
    step = (GLYPH_COLUMNS + GLYPH_GAP) * cell
    left = x - (len(word) * step - GLYPH_GAP * cell) / 2
    rows = _places(size, y - GLYPH_ROWS * cell / 2, cell)
    ink = np.zeros((size, size), np.float32)
    for number, letter in enumerate(word):
        table = letter_distances(letter)
        columns = _places(size, left + number * step, cell)
        distances = table.take(rows, axis=0, mode="clip").take(columns, axis=1, mode="clip")
        np.maximum(ink, np.clip(0.5 - distances * cell, 0, 1), out=ink)
    return ink


def _places(size: int, start: float, cell: float) -> np.ndarray:
    """Return the index into a distance field of each pixel of a row or column whose letter begins at ``start``."""
    return (((np.arange(size) + 0.5 - start) / cell + MARGIN) * FINE).astype(np.intp)
