"""Padded chunks of few distinct sizes, so that a function of them is compiled only a few times."""

import numpy as np


def power_of_two(count: int) -> int:
    """Return the smallest power of two >= ``count``."""
    return 1 << (count - 1).bit_length()


def padded_chunks(rows: np.ndarray, batch: int) -> list[np.ndarray]:
    """Split rows into chunks of one size: a power of two, or ``batch`` if that is smaller.

    The last chunk is padded with copies of the last row.
    """
    size = min(batch, power_of_two(len(rows)))
    padded = np.concatenate([rows, np.repeat(rows[-1:], -len(rows) % size, axis=0)])
    return list(padded.reshape(-1, size, *rows.shape[1:]))
