"""Keys and values kept while codes are drawn one by one: the context once per prompt, the codes per candidate.

Each kind of attention keeps, and reads, only what its mask allows:
    full            every code; the room grows by stages, so early steps read little
    row, convolutional
                    a ring of the last R codes, R being the furthest that the mask reaches back
    column          every code, filed by column, of which one column is read: so there is room for all from the start

A step reads the codes before its own and writes its own last, so that a compiled loop can write in place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers.attention_masks import Pattern


class KvCache(NamedTuple):
    """Keys and values of one layer. Every array leads with the prompts axis.

    The context's values are kept transposed, the order in which XLA multiplies them on a CPU. Of column attention the
    codes' arrays are [P M N w r H], r rows of each column.
    """

    context_k: Float[Array, "P N C H"]
    context_v: Float[Array, "P N H C"]
    k: Float[Array, "P M N S H"] | Float[Array, "P M N w r H"]
    v: Float[Array, "P M N S H"] | Float[Array, "P M N w r H"]


def new_cache(
    context_k: Float[Array, "P N C H"], context_v: Float[Array, "P N C H"], candidates: int, pattern: Pattern
) -> KvCache:
    """A cache that holds the context and has no room for codes yet."""
    prompts, heads, _, size = context_k.shape
    room = (pattern.grid[1], 0) if pattern.kind == "column" else (0,)
    empty = jnp.zeros((prompts, candidates, heads, *room, size), context_k.dtype)
    return KvCache(context_k, context_v.swapaxes(2, 3), empty, empty)


def grow(cache: KvCache, pattern: Pattern, codes: int) -> KvCache:
    """The same cache with room for the first ``codes`` codes; never smaller than it was."""
    reach = max(1, len(pattern.distances()) - 1)
    wanted = pattern.grid[0] if pattern.kind == "column" else min(codes, reach)
    extra = max(0, wanted - cache.k.shape[-2])
    padding = [(0, 0)] * (cache.k.ndim - 2) + [(0, extra), (0, 0)]
    return cache._replace(k=jnp.pad(cache.k, padding), v=jnp.pad(cache.v, padding))


def order_after(
    out: Float[Array, "P M N H"], k: Float[Array, "P M N H"], v: Float[Array, "P M N H"]
) -> tuple[Float[Array, "P M N H"], Float[Array, "P M N H"]]:
    """``k`` and ``v`` unchanged, but not to be had before ``out``, which was computed from the cache.

    A loop that may write before it reads copies the whole cache, twice in each step (XLA on a CPU; an
    optimization_barrier is dropped too early to help). A zero that the compiler cannot prove to be one orders the two.
    """
    zero = out[..., :1] * 0
    return k + zero, v + zero


def write(
    cache: KvCache,
    pattern: Pattern,
    k: Float[Array, "P M N H"],
    v: Float[Array, "P M N H"],
    index: Int[Array, ""],
    group: Int[Array, ""] | None = None,
) -> KvCache:
    """Files the key and value of code ``index``, which must come after all those written before.

    Where the arrays carry several layers on their second axis (``stack.Layered``), ``group`` says which one's they are.
    """
    slot: tuple[Array, ...] = (index % cache.k.shape[-2],)
    if pattern.kind == "column":
        slot = (index % pattern.grid[1], index // pattern.grid[1])
    layer: tuple[Array, ...] = () if group is None else (group,)
    start: tuple[Array | int, ...] = (0, *layer, 0, 0, *slot, 0)
    shape = (k.shape[0], *(1,) * len(layer), *k.shape[1:3], *(1,) * len(slot), k.shape[-1])
    return cache._replace(
        k=jax.lax.dynamic_update_slice(cache.k, k.reshape(shape).astype(cache.k.dtype), start),
        v=jax.lax.dynamic_update_slice(cache.v, v.reshape(shape).astype(cache.v.dtype), start),
    )


class Read(NamedTuple):
    """What one step looks at beside itself: slots of earlier codes, and which of them it sees."""

    k: Float[Array, "P M N S H"]
    v: Float[Array, "P M N S H"]
    visible: Bool[Array, " S"]


def read(cache: KvCache, pattern: Pattern, index: Int[Array, ""]) -> Read:
    """The earlier codes that code ``index``, which is to be written next, may see."""
    if pattern.kind == "column":
        column, row = index % pattern.grid[1], index // pattern.grid[1]
        k, v = (jax.lax.dynamic_index_in_dim(x, column, axis=3, keepdims=False) for x in (cache.k, cache.v))
        return Read(k, v, jnp.arange(k.shape[-2]) < row)
    slots = jnp.arange(cache.k.shape[-2])
    return Read(cache.k, cache.v, _ring_visible(pattern, slots, index))


def _ring_visible(pattern: Pattern, slots: Int[Array, " S"], index: Int[Array, ""]) -> Bool[Array, " S"]:
    """Slot s of a ring of S holds the code at distance (index - s - 1) mod S + 1, if there is one that far back."""
    written = slots < index
    size = slots.shape[0]
    distances = pattern.distances()[1 : 1 + size]
    if distances.all():
        return written
    # One slice of the table backwards and twice is its rotation: entry s becomes distances[(index - s - 1) mod S].
    twice = jnp.asarray(np.tile(distances[::-1], 2))
    return written & jax.lax.dynamic_slice(twice, ((size - index % size) % size,), (size,))
