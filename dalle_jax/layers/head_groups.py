"""Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245): several query heads share a key and value head.

N query heads form G groups of N / G adjacent heads; G is ``kv_heads`` in configs. The cache holds G heads. With G = N
it is multi-head attention, and the functions below change nothing.
"""

import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def check_kv_heads(field: str, kv_heads: int | None, heads: int) -> None:
    """Raise ValueError if ``kv_heads`` key and value heads cannot serve ``heads`` query heads in equal groups."""
    if kv_heads is not None and (kv_heads < 1 or heads % kv_heads):
        raise ValueError(f"{field}: expected a divisor of the {heads} heads, or None for {heads}, got {kv_heads}")


def group_heads(q: Float[Array, "..."], kv_heads: int, axis: int) -> tuple[Float[Array, "..."], str]:
    """Split the N heads on ``axis`` into [G R], and return the einsum letter of R; with G = N return ``q`` and ""."""
    heads = q.shape[axis]
    if heads == kv_heads:
        return q, ""
    return q.reshape(*q.shape[:axis], kv_heads, heads // kv_heads, *q.shape[axis + 1 :]), "r"


def repeat_heads(x: Float[Array, "B G L H"], heads: int) -> Float[Array, "B N L H"]:
    """Repeat each key or value head for the queries of its group, for kernels of multi-head attention."""
    return x if x.shape[1] == heads else jnp.repeat(x, heads // x.shape[1], axis=1)
