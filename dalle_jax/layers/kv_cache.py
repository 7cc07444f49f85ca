"""The key-value cache of autoregressive sampling: the context once per prompt, the codes once per candidate.

Each kind of attention stores and reads only what its mask allows:
    full            every code; the capacity grows in stages, so early steps read little
    row, convolutional
                    a ring buffer of the last R codes, where R is the longest distance that the mask allows
    column          every code, stored by column; a step reads one column, so the full capacity is allocated at once

A step reads the earlier codes first and writes its own last, so a compiled loop can update the cache in place.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.head_groups import pack_heads
from dalle_jax.parallel.axes import BATCH, CANDIDATES, HEADS, LAYERS
from dalle_jax.parallel.layout import constrain


class KvCache(NamedTuple):
    """Keys and values of one layer: Y heads of width F, the G heads of the model or packed ones (head_groups.py).

    The first axis of every array is prompts. The context's keys are stored transposed, so that both products with the
    context contract the rows of a matrix. XLA on a CPU computes them twice as fast (docs/architecture.md). Column
    attention stores the codes as [P M Y w r F]: r rows of each of the w columns.
    """

    context_k: Float[Array, "P Y F C"]
    context_v: Float[Array, "P Y C F"]
    k: Float[Array, "P M Y S F"] | Float[Array, "P M Y w r F"]
    v: Float[Array, "P M Y S F"] | Float[Array, "P M Y w r F"]


def new_cache(
    context_k: Float[Array, "P G C H"], context_v: Float[Array, "P G C H"], candidates: int, pattern: Pattern
) -> KvCache:
    """Create a cache that holds the context and has no capacity for codes yet."""
    context_k, context_v = pack_heads(context_k), pack_heads(context_v)
    prompts, heads, _, size = context_k.shape
    room = (pattern.grid[1], 0) if pattern.kind == "column" else (0,)
    empty = jnp.zeros((prompts, candidates, heads, *room, size), context_k.dtype)
    return KvCache(context_k.swapaxes(2, 3), context_v, empty, empty)


def cast_cache(cache: KvCache, dtype: str) -> KvCache:
    """Cast all keys and values. A step casts them back in its products, and ``write`` casts new ones."""
    return KvCache(*(x.astype(dtype) for x in cache))


def grow(cache: KvCache, pattern: Pattern, codes: int) -> KvCache:
    """Grow a cache to the capacity for the first ``codes`` codes; it never shrinks."""
    reach = max(1, len(pattern.distances()) - 1)
    wanted = pattern.grid[0] if pattern.kind == "column" else min(codes, reach)
    extra = max(0, wanted - cache.k.shape[-2])
    padding = [(0, 0)] * (cache.k.ndim - 2) + [(0, extra), (0, 0)]
    return shard(cache._replace(k=jnp.pad(cache.k, padding), v=jnp.pad(cache.v, padding)))


def shard(cache: KvCache) -> KvCache:
    """Shard a cache over prompts, or else candidates, and over heads.

    In a scanned stack the second axis of the arrays is layers.
    """
    layers = (LAYERS,) * (cache.context_k.ndim - 4)

    def over(x: Array, *axes: str) -> Array:
        named = (BATCH, *layers, *axes)
        return constrain(x, *named, *(None,) * (x.ndim - len(named)))

    return KvCache(
        over(cache.context_k, HEADS), over(cache.context_v, HEADS),
        over(cache.k, CANDIDATES, HEADS), over(cache.v, CANDIDATES, HEADS),
    )  # fmt: skip


def order_after(
    out: Float[Array, "P M N H"], k: Float[Array, "P M G H"], v: Float[Array, "P M G H"]
) -> tuple[Float[Array, "P M G H"], Float[Array, "P M G H"]]:
    """Return ``k`` and ``v`` unchanged, with a data dependency on ``out``, which was read from the cache.

    Without it XLA on a CPU may schedule the write before the read, and then copies the whole cache twice per step. An
    ``optimization_barrier`` does not help, since XLA drops it too early. The dependency is a zero that the compiler
    cannot fold.
    """
    zero = out[:, :, : k.shape[2], :1] * 0
    return k + zero, v + zero


def write(
    cache: KvCache,
    pattern: Pattern,
    k: Float[Array, "P M G H"],
    v: Float[Array, "P M G H"],
    index: Int[Array, ""],
    group: Int[Array, ""] | None = None,
) -> KvCache:
    """Write the key and value of code ``index``, and return the cache. Codes must be written in their order.

    In a scanned stack the second axis of the arrays is layers (``stack.Layered``). ``group`` is the index on that axis.
    """
    slot: tuple[Array, ...] = (index % cache.k.shape[-2],)
    if pattern.kind == "column":
        slot = (index % pattern.grid[1], index // pattern.grid[1])
    layer: tuple[Array, ...] = () if group is None else (group,)
    start: tuple[Array | int, ...] = (0, *layer, 0, 0, *slot, 0)
    heads, size = cache.context_v.shape[1 + len(layer)], cache.k.shape[-1]
    shape = (k.shape[0], *(1,) * len(layer), k.shape[1], heads, *(1,) * len(slot), size)
    return cache._replace(
        k=jax.lax.dynamic_update_slice(cache.k, k.reshape(shape).astype(cache.k.dtype), start),
        v=jax.lax.dynamic_update_slice(cache.v, v.reshape(shape).astype(cache.v.dtype), start),
    )


class CachedCodes(NamedTuple):
    """The cached codes that one step reads: S slots, and which of them are visible."""

    k: Float[Array, "P M Y S F"]
    v: Float[Array, "P M Y S F"]
    visible: Bool[Array, " S"]


def read(cache: KvCache, pattern: Pattern, index: Int[Array, ""]) -> CachedCodes:
    """Read the earlier codes that are visible to code ``index``, the next one to write."""
    if pattern.kind == "column":
        column, row = index % pattern.grid[1], index // pattern.grid[1]
        k, v = (jax.lax.dynamic_index_in_dim(x, column, axis=3, keepdims=False) for x in (cache.k, cache.v))
        return CachedCodes(k, v, jnp.arange(k.shape[-2]) < row)
    slots = jnp.arange(cache.k.shape[-2])
    return CachedCodes(cache.k, cache.v, _ring_visible(pattern, slots, index))


def _ring_visible(pattern: Pattern, slots: Int[Array, " S"], index: Int[Array, ""]) -> Bool[Array, " S"]:
    """Return the visible slots of a ring buffer.

    Slot s of S holds the code at distance (index - s - 1) mod S + 1, if that code exists.
    """
    written = slots < index
    size = slots.shape[0]
    distances = pattern.distances()[1 : 1 + size]
    if distances.all():
        return written
    # A slice of the reversed table, tiled twice, is a rotation: entry s becomes distances[(index - s - 1) mod S].
    twice = jnp.asarray(np.tile(distances[::-1], 2))
    return written & jax.lax.dynamic_slice(twice, ((size - index % size) % size,), (size,))
