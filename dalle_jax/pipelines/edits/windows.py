"""Square windows of an image in which a model of one size fills its hidden pixels, a tile at a time."""

import itertools
from typing import NamedTuple

import numpy as np

from dalle_jax.arrays import Bool
from dalle_jax.images.editable import Margins


class Tile(NamedTuple):
    """A rectangle of an image, in its pixels."""

    top: int
    left: int
    height: int
    width: int

    @property
    def part(self) -> tuple[slice, slice]:
        """The rows and columns of the tile."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)


class Window(NamedTuple):
    """A square of an image, in its pixels, and the ``tile`` in it that it fills.

    It may reach beyond the image. The model draws all of it that is not known, but the tile alone is pasted.
    """

    top: int
    left: int
    side: int
    tile: Tile

    @property
    def part(self) -> tuple[slice, slice]:
        """The rows and columns of the window."""
        return slice(self.top, self.top + self.side), slice(self.left, self.left + self.side)


def windows_about(hidden: Bool[np.ndarray, "H W"], context: float, least: int) -> tuple[Window, ...]:
    """Return the windows to fill a hole: one about all of it, if it fits into a square of the image.

    A window has at most as many pixels a side as the image's shorter side, if it can show the hole. A longer hole is
    divided into tiles. See ``window_about`` for ``context`` and ``least``.
    """
    rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
    most = min(hidden.shape)
    ends = [(int(one[0]), int(one[-1]) + 1) for one in (rows, columns)]
    tiles = [
        Tile(top, left, high, wide)
        for (top, high), (left, wide) in itertools.product(*(_divided(*one, most) for one in ends))
    ]
    windows = [window_about(one, context, least, most) for one in tiles if hidden[one.part].any()]
    return ordered(windows, hidden)


def windows_beside(size: tuple[int, int], margins: Margins, context: float) -> tuple[Window, ...]:
    """Return the windows that fill the margins of an image of ``size`` (width, height).

    The margins are divided into tiles no larger than the image's shorter side, so that their content has its scale.
    """
    width, height = size
    most = min(size)
    rows, columns = (
        [
            (_divided(0, before, most), False),
            (_divided(before, before + length, most), True),
            (_divided(before + length, before + length + after, most), False),
        ]
        for before, length, after in ((margins.top, height, margins.bottom), (margins.left, width, margins.right))
    )
    tiles = [
        Tile(top, left, high, wide)
        for (of_rows, beside), (of_columns, above) in itertools.product(rows, columns)
        if not (beside and above)
        for (top, high), (left, wide) in itertools.product(of_rows, of_columns)
    ]
    hidden = np.ones((height + margins.top + margins.bottom, width + margins.left + margins.right), bool)
    hidden[margins.top : margins.top + height, margins.left : margins.left + width] = False
    return ordered([window_about(one, context, 1, None) for one in tiles], hidden)


def window_about(tile: Tile, context: float, least: int, most: int | None) -> Window:
    """Return the square with a tile in its middle, larger than its longer side by ``context`` of it on either side.

    It has at least ``least`` pixels a side, and at most ``most`` if it can show the tile.
    """
    longest = max(tile.height, tile.width)
    side = max(least, round(longest * (1 + 2 * context)))
    side = side if most is None else max(longest, min(most, side))
    return Window(tile.top - (side - tile.height) // 2, tile.left - (side - tile.width) // 2, side, tile)


def ordered(windows: list[Window], hidden: Bool[np.ndarray, "H W"]) -> tuple[Window, ...]:
    """Return the windows in the order in which they are filled: next the one of which most pixels are known by then."""
    known, waiting, found = ~hidden, list(windows), list[Window]()
    while waiting:
        counts = [int(known[_inside(one)].sum()) for one in waiting]
        found.append(waiting.pop(int(np.argmax(counts))))
        known[found[-1].tile.part] = True
    return tuple(found)


def _inside(window: Window) -> tuple[slice, slice]:
    rows, columns = window.part
    return slice(max(0, rows.start), rows.stop), slice(max(0, columns.start), columns.stop)


def _divided(start: int, stop: int, most: int) -> list[tuple[int, int]]:
    """Divide an interval into equal parts of at most ``most``; return their starts and lengths."""
    count = -(-(stop - start) // most)
    edges = [start + (stop - start) * number // count for number in range(count + 1)] if count else []
    return [(first, second - first) for first, second in itertools.pairwise(edges)]


def hidden_cells(hidden: Bool[np.ndarray, "s t"], rows: int, columns: int) -> Bool[np.ndarray, "rows columns"]:
    """Return the cells of a grid over the pixels in which any pixel is hidden.

    A cell's code is redrawn as a whole. The decoder's receptive field does not matter: kept pixels are those of the
    image, and hidden ones next to them are decoded beside the codes of kept cells, as in any image.
    """
    spans = [
        [(row * size // cells, -(-(row + 1) * size // cells)) for row in range(cells)]
        for size, cells in zip(hidden.shape, (rows, columns), strict=True)
    ]
    by_row = np.stack([hidden[start:stop].any(axis=0) for start, stop in spans[0]])  # [rows t]
    return np.stack([by_row[:, start:stop].any(axis=1) for start, stop in spans[1]], axis=1)
