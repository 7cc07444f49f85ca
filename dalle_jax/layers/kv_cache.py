"""Keys and values kept while codes are drawn one by one: the context once per prompt, the codes per candidate.

Each kind of attention keeps, and reads, only what its mask allows:
    full            every code; the room grows by stages, so early steps read little
    row, convolutional
                    a ring of the last R codes, R being the reach of the mask
    column          every code, filed by column, of which one column is read
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers.attention_masks import Pattern


class KvCache(NamedTuple):
    """Keys and values of one layer. Every array leads with the prompts axis.

    Of column attention the codes' arrays are [P M N w r H], r rows of each column.
    """

    context_k: Float[Array, "P N C H"]
    context_v: Float[Array, "P N C H"]
    k: Float[Array, "P M N S H"] | Float[Array, "P M N w r H"]
    v: Float[Array, "P M N S H"] | Float[Array, "P M N w r H"]


def new_cache(
    context_k: Float[Array, "P N C H"], context_v: Float[Array, "P N C H"], candidates: int, pattern: Pattern
) -> KvCache:
    """A cache that holds the context and has no room for codes yet."""
    prompts, heads, _, size = context_k.shape
    room = (pattern.grid[1], 0) if pattern.kind == "column" else (0,)
    empty = jnp.zeros((prompts, candidates, heads, *room, size), context_k.dtype)
    return KvCache(context_k, context_v, empty, empty)


def grow(cache: KvCache, pattern: Pattern, codes: int) -> KvCache:
    """The same cache with room for the first ``codes`` codes; never smaller than it was."""
    wanted = -(-codes // pattern.grid[1]) if pattern.kind == "column" else min(codes, len(pattern.distances()))
    extra = max(0, wanted - cache.k.shape[-2])
    padding = [(0, 0)] * (cache.k.ndim - 2) + [(0, extra), (0, 0)]
    return cache._replace(k=jnp.pad(cache.k, padding), v=jnp.pad(cache.v, padding))


def write(
    cache: KvCache, pattern: Pattern, k: Float[Array, "P M N H"], v: Float[Array, "P M N H"], index: Int[Array, ""]
) -> KvCache:
    """Files the key and value of code ``index``, which must come after all those written before."""
    if pattern.kind == "column":
        slot = (index % pattern.grid[1], index // pattern.grid[1])
    else:
        slot = (index % cache.k.shape[-2],)
    start = (0, 0, 0, *slot, 0)
    shape = (*k.shape[:3], *(1,) * len(slot), k.shape[-1])
    return cache._replace(
        k=jax.lax.dynamic_update_slice(cache.k, k.reshape(shape).astype(cache.k.dtype), start),
        v=jax.lax.dynamic_update_slice(cache.v, v.reshape(shape).astype(cache.v.dtype), start),
    )


class Read(NamedTuple):
    """What one step looks at: slots of codes, and which of them it sees."""

    k: Float[Array, "P M N S H"]
    v: Float[Array, "P M N S H"]
    visible: Bool[Array, "S"]


def read(cache: KvCache, pattern: Pattern, index: Int[Array, ""]) -> Read:
    """The codes that code ``index``, the one written last, may see."""
    if pattern.kind == "column":
        column, row = index % pattern.grid[1], index // pattern.grid[1]
        k, v = (jax.lax.dynamic_index_in_dim(x, column, axis=3, keepdims=False) for x in (cache.k, cache.v))
        return Read(k, v, jnp.arange(k.shape[-2]) <= row)
    slots = jnp.arange(cache.k.shape[-2])
    return Read(cache.k, cache.v, _ring_visible(pattern, slots, index))


def _ring_visible(pattern: Pattern, slots: Int[Array, "S"], index: Int[Array, ""]) -> Bool[Array, "S"]:
    """Slot s of a ring of S holds the code at distance (index - s) mod S, if there is one that far back."""
    written = slots <= index
    distances = pattern.distances()[: slots.shape[0]]
    if distances.all():
        return written
    size = len(distances)
    # One slice of the table written backwards and twice is its rotation: entry s becomes distances[(index - s) mod S].
    twice = jnp.asarray(np.tile(distances[::-1], 2))
    return written & jax.lax.dynamic_slice(twice, (size - 1 - index % size,), (size,))
