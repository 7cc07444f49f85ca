"""Rotary position embedding (Su et al. 2021, arXiv 2104.09864) over a grid of codes, as in LlamaGen.

A head's width is H/2 adjacent pairs (0, 1), (2, 3), ... The first half of the pairs rotates by the code's row, the
second half by its column. As in LlamaGen's published code, the table is zero at the context positions, not the
identity. Their queries and keys become zero, so every query gives all context positions the same score.
"""

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float


def grid_rotary_table(
    grid: tuple[int, int], head_size: int, context: int, base: float = 10_000.0
) -> Float[np.ndarray, "L h 2"]:
    """Return the cosine and sine of the angles of all h = H/2 pairs: [context + I, h, 2], codes in raster order.

    The first h/2 pairs belong to the row and the others to the column. The angle of pair j of each half, from 0, is the
    row or column times base^(-4j/H). Context positions have cosine 0 and sine 0. ``head_size`` H is a multiple of 4.
    """
    frequencies = base ** -(np.arange(0, head_size // 2, 2) / (head_size // 2))  # [H/4]
    rows, columns = (np.arange(size)[:, None] * frequencies for size in grid)
    angles = np.concatenate(np.broadcast_arrays(rows[:, None], columns[None]), axis=-1).reshape(-1, head_size // 2)
    codes = np.stack([np.cos(angles), np.sin(angles)], axis=-1)  # [I H/2 2]
    return np.concatenate([np.zeros((context, *codes.shape[1:])), codes]).astype(np.float32)


def rotate(x: Float[Array, "... H"], table: Float[Array, "... h 2"]) -> Float[Array, "... H"]:
    """Rotate each pair of ``x`` by its angle in ``table``; leading dimensions broadcast."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)  # [... h 2]
    cosine, sine = table[..., 0], table[..., 1]
    turned = (pairs[..., 0] * cosine - pairs[..., 1] * sine, pairs[..., 1] * cosine + pairs[..., 0] * sine)
    return jnp.stack(turned, axis=-1).reshape(x.shape).astype(x.dtype)
