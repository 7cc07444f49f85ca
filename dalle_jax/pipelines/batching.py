"""Rows in pieces of few shapes, so that what they go through is compiled for few."""

import numpy as np


def power_of_two(count: int) -> int:
    """The smallest from ``count`` on."""
    return 1 << (count - 1).bit_length()


def pieces(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Pieces of one length, at most ``batch`` and a power of two else, the last filled up with its last row."""
    size = min(batch, power_of_two(len(rows)))
    filled = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
    return list(filled.reshape(-1, size, *rows.shape[1:]))
