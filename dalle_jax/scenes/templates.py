"""Normalised views of shapes and letters, and the template banks for matching them.

A view is a coverage map moved and scaled to a standard frame, sampled on a small grid, with zero mean and unit norm. So
the inner product of two views is their correlation. The banks are rendered once, at first use, at several sizes,
sub-pixel positions and amounts of blur.
"""

from functools import cache

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from dalle_jax.scenes.rendering import SIGN_CELL, draw_shape, overlap
from dalle_jax.scenes.scene import LETTERS, SHAPES
from dalle_jax.scenes.shapes import GLYPH_COLUMNS, GLYPH_ROWS, word_bitmap
from dalle_jax.scenes.strokes import word_coverage

SHAPE_GRID = (np.arange(14) + 0.5) / 14 * 4.4 - 2.2
"""Sampling points of a shape along one axis, with 0 at its centre.

The unit is the root mean square distance of the shape's pixels from the centre along that axis.
"""
GLYPH_HEIGHT = GLYPH_ROWS * SIGN_CELL
LETTER_ROWS = (np.arange(14) + 0.5) / 14 * 1.24 - 0.62
LETTER_COLUMNS = (np.arange(12) + 0.5) / 12 * 1.04 - 0.52
"""Sampling points of a letter, in units of its height."""


def shape_view(coverage: Float[np.ndarray, "h w"]) -> tuple[Float[np.ndarray, " n"], float, float]:
    """Return the view of a shape, then y and x of its centre in pixels."""
    weights = coverage * coverage
    by_row, by_column = weights.sum(axis=1), weights.sum(axis=0)
    total = by_row.sum() + 1e-6
    rows, columns = np.arange(len(by_row)), np.arange(len(by_column))
    y, x = by_row @ rows / total, by_column @ columns / total
    spread = np.sqrt((by_row @ (rows - y) ** 2 + by_column @ (columns - x) ** 2) / (2 * total)) + 1e-3
    view = sample_grid(coverage, y + SHAPE_GRID * spread, x + SHAPE_GRID * spread)
    return _normalise(view), float(y + 0.5), float(x + 0.5)


def extent(coverage: Float[np.ndarray, "h w"]) -> float:
    """Return the longer side, in pixels, of the bounding box of the pixels whose coverage is above one half."""
    return max(_width(coverage.max(axis=0)), _width(coverage.max(axis=1)))


def letter_view(coverage: Float[np.ndarray, "h w"], start: int, stop: int) -> Float[np.ndarray, " n"]:
    """Return the view of the letter in columns start … stop - 1 of a sign."""
    own = coverage[:, max(0, start - 1) : stop + 1]
    top, bottom = crossings(own.max(axis=1))
    left, right = crossings(own.max(axis=0))
    height = bottom - top
    y, x = (top + bottom - 1) / 2, (left + right - 1) / 2
    return _normalise(sample_grid(own, y + LETTER_ROWS * height, x + LETTER_COLUMNS * height))


def crossings(profile: Float[np.ndarray, " n"]) -> tuple[float, float]:
    """Return the positions where a profile first and last crosses one half.

    They are linearly interpolated; pixel i covers [i, i + 1].
    """
    above = np.flatnonzero(profile >= 0.5)
    if len(above) == 0:
        return 0.0, float(len(profile))
    first, last = above[0], above[-1]
    before = profile[first - 1] if first > 0 else 0.0
    after = profile[last + 1] if last + 1 < len(profile) else 0.0
    start = first + 0.5 - (profile[first] - 0.5) / max(profile[first] - before, 1e-3)
    stop = last + 0.5 + (profile[last] - 0.5) / max(profile[last] - after, 1e-3)
    return float(start), float(stop)


def sample_grid(
    values: Float[np.ndarray, "h w"], rows: Float[np.ndarray, " r"], columns: Float[np.ndarray, " c"]
) -> Float[np.ndarray, "r c"]:
    """Sample values bilinearly on a grid of rows and columns.

    Pixel centres are integers, and values outside the array are 0.
    """
    across = _interpolation_weights(columns, values.shape[1])
    return _interpolation_weights(rows, values.shape[0]) @ values @ across.T


def _interpolation_weights(places: np.ndarray, pixels: int) -> np.ndarray:
    """Return the weights with which linear interpolation at each place reads each pixel, [places pixels]."""
    return np.maximum(0, 1 - np.abs(places[:, None] - np.arange(pixels)))


def _width(profile: np.ndarray) -> float:
    start, stop = crossings(profile)
    return stop - start


def _normalise(view: np.ndarray) -> np.ndarray:
    view = (view - view.mean()).ravel()
    return (view / (np.linalg.norm(view) + 1e-6)).astype(np.float32)


@cache
def shape_bank() -> tuple[list[str], Float[np.ndarray, "templates n"]]:
    """Render every shape at several sizes, positions and amounts of blur. Return the shapes' names and the views."""
    names, views = [], []
    for shape in SHAPES:
        for half in (4.0, 5.0, 6.0, 7.5, 10.0, 20.0):
            for blur in (0.0, 0.5, 0.8, 1.1):
                for shift in ((0.0, 0.0), (0.5, 0.25), (0.25, 0.5)):
                    side = int(4 * half)
                    canvas = np.zeros((1, side, side), np.float32)
                    draw_shape(canvas, shape, (1.0,), side / 2 + shift[0], side / 2 + shift[1], half)
                    names.append(shape)
                    views.append(shape_view(ndimage.gaussian_filter(canvas[0], blur))[0])
    return names, np.stack(views)


@cache
def letter_bank(strokes: bool) -> tuple[list[str], Float[np.ndarray, "templates n"]]:
    """Render every letter at several sizes, positions and amounts of blur. Return the letters and their views.

    The letters are bitmaps, or ``strokes`` as in large images.
    """
    names, views = [], []
    for letter in LETTERS:
        for cell in (5.4, 10.8) if strokes else (1.35, 2.7, 5.4):
            for blur in (0.0, 0.25, 0.5):
                for shift in (0.0, 0.33, 0.66):
                    drawn = _strokes(letter, cell, shift) if strokes else _bitmap(letter, cell, shift)
                    ink = ndimage.gaussian_filter(drawn, blur * cell)
                    names.append(letter)
                    ink /= ink.max()
                    views.append(letter_view(ink, 0, ink.shape[1]))
    return names, np.stack(views)


def _bitmap(letter: str, cell: float, shift: float) -> Float[np.ndarray, "h w"]:
    rows = overlap(int(9 * cell) + 2, GLYPH_ROWS, cell + shift, GLYPH_ROWS * cell)
    columns = overlap(int(8 * cell) + 2, GLYPH_COLUMNS, cell + shift, GLYPH_COLUMNS * cell)
    return rows @ word_bitmap(letter) @ columns.T


def _strokes(letter: str, cell: float, shift: float) -> Float[np.ndarray, "h w"]:
    side = int((GLYPH_ROWS + 2) * cell) + 2
    return word_coverage(letter, side, side / 2 + shift, side / 2 + shift, cell)
