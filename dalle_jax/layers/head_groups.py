"""Grouped-query attention (Ainslie et al. 2023, arXiv 2305.13245), and packed heads for the caches of a TPU.

N query heads form G groups of N / G adjacent heads, which share a key and value head; G is ``kv_heads`` in configs. The
cache holds G heads. With G = N it is multi-head attention, and ``group_heads`` changes nothing.

A TPU stores the last two dimensions of an array in tiles of 8 x 128. Keys of heads of width 64 fill half of a tile, and
XLA chose layouts for cached values that fill less: a step of LlamaGen-XL moved 6.4 times their bytes
(docs/sampling.md). A cache on a TPU therefore packs Z adjacent heads into one of width F = Z * H. Its queries are
spread: each is zero in the columns of the other heads. The products are the same, with Z times the FLOPs. Y = G / Z is
the number of packed heads; elsewhere Z = 1.
"""

import math

import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float
from dalle_jax.parallel.axes import HEADS
from dalle_jax.parallel.layout import axis_parts, platform

LANES = 128
"""The columns of a TPU's tile."""


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


def packed_together(kv_heads: int, size: int) -> int:
    """Return Z, the number of key and value heads that a cache of the traced program packs into one.

    It is the smallest number that fills the tiles best. Each device keeps whole packed heads of its own.
    """
    if platform() != "tpu":
        return 1
    own = kv_heads // axis_parts(HEADS) if kv_heads % axis_parts(HEADS) == 0 else kv_heads
    divisors = [count for count in range(1, own + 1) if own % count == 0]
    return min(divisors, key=lambda count: (math.ceil(count * size / LANES) / count, count))


def pack_heads(x: Float[Array, "B G L H"]) -> Float[Array, "B Y L F"]:
    """Pack the heads of keys or values for a cache."""
    rows, heads, length, size = x.shape
    together = packed_together(heads, size)
    if together == 1:
        return x
    x = x.reshape(rows, heads // together, together, length, size).swapaxes(2, 3)
    return x.reshape(rows, heads // together, length, together * size)


def spread_queries(q: Float[Array, "... N H"], kv_heads: int, width: int) -> Float[Array, "... N F"]:
    """Put each query into the columns of its head in a packed head of ``width``, with zeros in the others."""
    if width == q.shape[-1]:
        return q
    own = _own_columns(q.shape[-2], kv_heads, width // q.shape[-1])
    return jnp.where(own, q[..., None, :], jnp.zeros((), q.dtype)).reshape(*q.shape[:-1], width)


def own_columns(out: Float[Array, "... N F"], kv_heads: int, size: int) -> Float[Array, "... N H"]:
    """Take from each row, a sum of packed values, the columns of its head, of ``size``."""
    if size == out.shape[-1]:
        return out
    parts = out.reshape(*out.shape[:-1], -1, size)
    own = _own_columns(out.shape[-2], kv_heads, parts.shape[-2])
    return jnp.where(own, parts, jnp.zeros((), out.dtype)).sum(axis=-2)


def _own_columns(heads: int, kv_heads: int, together: int) -> Bool[Array, "N Z 1"]:
    """Return True at the place of each query head among the heads that are packed together."""
    place = jnp.arange(heads) // (heads // kv_heads) % together
    return (place[:, None] == jnp.arange(together))[..., None]
