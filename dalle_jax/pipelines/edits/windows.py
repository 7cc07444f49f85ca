"""Square windows of an image in which a model of one size fills its hidden pixels."""

from typing import NamedTuple

import numpy as np

from dalle_jax.arrays import Bool, Int


class Window(NamedTuple):
    """A square of an image, in its pixels; it may reach beyond the image."""

    top: int
    left: int
    side: int

    @property
    def rows(self) -> slice:
        """The window's rows in the image."""
        return slice(self.top, self.top + self.side)

    @property
    def columns(self) -> slice:
        """The window's columns in the image."""
        return slice(self.left, self.left + self.side)


def windows_about(hidden: Bool[np.ndarray, "H W"], context: float, least: int) -> tuple[Window, ...]:
    """Return the windows to fill a hole: one square about its middle, if the hole fits into a square of the image.

    The square is larger than the hole's longer side by the share ``context`` of it on either side. It has at least
    ``least`` pixels a side, and at most as many as the image's shorter side. The hole stays in its middle even at the
    border of the image. A longer hole takes several overlapping windows as high, or as wide, as the image.
    """
    height, width = hidden.shape
    rows, columns = np.flatnonzero(hidden.any(axis=1)), np.flatnonzero(hidden.any(axis=0))
    high, wide = (int(ends[-1] - ends[0]) + 1 for ends in (rows, columns))
    longest, most = max(high, wide), min(height, width)
    if longest > most:
        return covering_windows(hidden, most)
    side = min(most, max(least, round(longest * (1 + 2 * context))))
    return (Window(int(rows[0]) - (side - high) // 2, int(columns[0]) - (side - wide) // 2, side),)


def covering_windows(hidden: Bool[np.ndarray, "H W"], side: int) -> tuple[Window, ...]:
    """Return windows that fill all hidden pixels in order, each from what is known by then.

    The windows are half a side apart, counted from the first known pixel. Among those that are known by half or more
    the next one fills most pixels; if there is none, the next one is known best.
    """
    sums = np.pad(hidden.astype(np.int64), ((1, 0), (1, 0)))
    known = np.argwhere(~hidden)
    first = known.min(axis=0) if len(known) else np.zeros(2, np.int64)
    tops, lefts = (_starts(size, side, int(start)) for size, start in zip(hidden.shape, first, strict=True))
    left_over, windows = hidden.copy(), []
    while left_over.any():
        sums[1:, 1:] = left_over.cumsum(axis=0).cumsum(axis=1)
        counts = _counts(sums, tops, lefts, side)
        half_known = (counts > 0) & (counts <= side * side / 2)
        merit = np.where(half_known, counts, np.where(counts > 0, -counts, -(side**2) - 1))
        row, column = np.unravel_index(int(merit.argmax()), counts.shape)
        window = Window(int(tops[row]), int(lefts[column]), side)
        left_over[window.rows, window.columns] = False
        windows.append(window)
    return tuple(windows)


def _starts(size: int, side: int, first: int) -> Int[np.ndarray, " n"]:
    """Return the starts of windows along one axis: ``first`` plus multiples of half a side, and both ends."""
    stride = max(1, side // 2)
    inside = np.arange(first % stride, size - side + 1, stride)
    return np.unique(np.concatenate([[0], inside, [size - side]]))


def _counts(
    sums: Int[np.ndarray, "H1 W1"], tops: Int[np.ndarray, " r"], lefts: Int[np.ndarray, " c"], side: int
) -> Int[np.ndarray, "r c"]:
    """Return the number of hidden pixels in each window, from their summed-area table."""
    rows, columns = (tops, tops + side), (lefts, lefts + side)
    corner = [[sums[np.ix_(row, column)] for column in columns] for row in rows]
    return corner[1][1] - corner[0][1] - corner[1][0] + corner[0][0]


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
