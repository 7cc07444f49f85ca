"""The key-value cache of rows at positions of their own: continuous batching and windows of several codes.

A pass writes the keys and values of a window of W adjacent codes of each row first, and then computes one attention
over the whole room under an exact mask. The place of a code in the room depends on its index alone, and masked places
have weight 0. The result for a code is therefore the same wherever it stands in the window and whatever was accepted
before. Each kind of attention has room for what its mask allows:
    full, row, convolutional
                    a ring buffer of R + W codes, where R is the longest distance that the mask allows
    column          every code, stored by column; a query reads its own column

Codes that were written for wrong guesses stay in the room until their index is written again. No query sees them
before, since a window begins at most one code after the last right one.

Rows share contexts, the keys and values of X prompts. ``context`` is the index of each row's context. None says that
rows are grouped: X divides B, and row b has context b // (B / X). Grouped rows read each context once. For rows in any
order there are two ways, by the number of contexts:
    few     all contexts form one, of which each row sees its own part; X times the products, each context read once
    many    each row gets a copy of its context, which is read for every row
"""

import functools
import math
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers.attend_backends.attend_decode import (
    DecodeBackend,
    RoomPlaces,
    SoftmaxSums,
    choose_decode_backend,
    decode_attention,
)
from dalle_jax.layers.attend_backends.write_codes import ROOM_TILE, column_places, ring_places, write_codes
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern
from dalle_jax.layers.head_groups import group_heads, own_columns, spread_queries
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import precision_of
from dalle_jax.parallel.axes import BATCH, HEADS, LAYERS
from dalle_jax.parallel.layout import constrain, platform

MOST_SHARED = 8
"""The largest number of contexts that are read as one.

Up to about 200 / W contexts the products of windows of W codes take an accelerator less time than copies would.
"""


class ArrangedContexts(NamedTuple):
    """Contexts for B rows in groups of B / Y, with the visible positions of each row; None makes all visible."""

    k: Float[Array, "Y G C H"]
    v: Float[Array, "Y G C H"]
    seen: Bool[Array, "B C"] | None


def arrange_contexts(
    k: Float[Array, "X G S H"],
    v: Float[Array, "X G S H"],
    seen: Bool[Array, "X S"] | None,
    context: Int[Array, " B"] | None,
    rows: int,
) -> ArrangedContexts:
    """Arrange the contexts of ``rows`` rows; ``seen`` marks the visible positions of each context."""
    count, heads, length, size = k.shape
    if context is None:
        return ArrangedContexts(k, v, None if seen is None else jnp.repeat(seen, rows // count, axis=0))
    if count > MOST_SHARED:
        return ArrangedContexts(k[context], v[context], None if seen is None else seen[context])
    own = jnp.broadcast_to((context[:, None] == jnp.arange(count))[..., None], (rows, count, length))
    own = own if seen is None else own & seen
    k, v = (x.swapaxes(0, 1).reshape(1, heads, count * length, size) for x in (k, v))
    return ArrangedContexts(k, v, own.reshape(rows, -1))


class SlotCache(NamedTuple):
    """Keys and values of one layer: X contexts, and room for S codes of B rows.

    Y heads of width F are the G heads of the model, packed on a TPU (layers/head_groups.py). Column attention stores
    the codes as [B Y w h F]. In a scanned stack the second axis is layers (``stack.Layered``).
    """

    context_k: Float[Array, "*X Y C F"]
    context_v: Float[Array, "*X Y C F"]
    k: Float[Array, "*B Y S F"] | Float[Array, "*B Y w h F"]
    v: Float[Array, "*B Y S F"] | Float[Array, "*B Y w h F"]


def slot_cache(cache: KvCache, pattern: Pattern, window: int, rows: int) -> SlotCache:
    """Return the contexts of a prefilled cache, and empty room for the codes of ``rows`` rows."""
    _, *lead, size, _ = cache.context_k.shape
    room = pattern.grid[::-1] if pattern.kind == "column" else (_ring_size(pattern, window),)
    empty = jnp.zeros((rows, *lead, *room, size), cache.context_k.dtype)
    return shard(SlotCache(cache.context_k.swapaxes(-1, -2), cache.context_v, empty, empty))


def shard(cache: SlotCache) -> SlotCache:
    """Shard a cache over contexts or rows, and heads. In a scanned stack the second axis of the arrays is layers."""
    named = (BATCH, *(LAYERS,) * (cache.context_k.ndim - 4), HEADS)
    return SlotCache(*(constrain(x, *named, *(None,) * (x.ndim - len(named))) for x in cache))


def _ring_size(pattern: Pattern, window: int) -> int:
    """Return at least the longest distance between a query and its keys, plus the window; on a TPU, whole tiles."""
    reach = min(len(pattern.distances()) - 1, max(0, pattern.positions - 2))  # the last code is never an input
    size = reach + window
    return -(-size // ROOM_TILE) * ROOM_TILE if platform() == "tpu" else size


def write_window(
    cache: SlotCache,
    pattern: Pattern,
    k: Float[Array, "B W G H"],
    v: Float[Array, "B W G H"],
    index: Int[Array, " B"],
    group: Int[Array, ""] | None = None,
    *,
    backend: DecodeBackend = "auto",
) -> SlotCache:
    """Write the keys and values of codes ``index`` to ``index + W - 1`` of each row.

    ``group`` is the index on the axis of layers, in a scanned stack.
    """
    rows, codes = jnp.arange(k.shape[0])[:, None], index[:, None] + jnp.arange(k.shape[1])  # [B 1], [B W]
    layer: tuple[Array, ...] = () if group is None else (group,)
    packed = (*k.shape[:2], cache.context_k.shape[1 + len(layer)], cache.k.shape[-1])  # [B W Y F]
    k, v = k.reshape(packed), v.reshape(packed)
    if choose_decode_backend(k, pattern, backend) == "pallas":
        which = _layer(group)
        column = pattern.kind == "column"
        places = column_places(which, codes, pattern.grid) if column else ring_places(which, codes, cache.k.shape[-2])
        old = _room(cache.k, pattern, group), _room(cache.v, pattern, group)
        new = write_codes(*old, k.swapaxes(1, 2), v.swapaxes(1, 2), places)
        return shard(cache._replace(k=new[0].reshape(cache.k.shape), v=new[1].reshape(cache.v.shape)))
    place: tuple[Array, ...] = (codes % cache.k.shape[-2],)
    if pattern.kind == "column":
        place = (codes % pattern.grid[1], codes // pattern.grid[1])  # rows beyond the grid are dropped
    at = (rows, *layer, slice(None), *place)
    k, v = (old.at[at].set(new.astype(old.dtype), mode="drop") for old, new in ((cache.k, k), (cache.v, v)))
    return shard(cache._replace(k=k, v=v))


def _layer(group: Int[Array, ""] | None) -> Int[Array, " 1"]:
    return jnp.zeros((1,), jnp.int32) if group is None else group[None].astype(jnp.int32)


def _room(x: Array, pattern: Pattern, group: Int[Array, ""] | None) -> Float[Array, "B L Y w S F"]:
    """Return the room of a cache with the axes of the kernels."""
    x = x[:, None] if group is None else x  # [B L Y S F] or [B L Y w h F]
    return x if pattern.kind == "column" else x[:, :, :, None]


class VisibleCodes(NamedTuple):
    """The places of the room that the queries of a window read, and the mask."""

    k: Float[Array, "B Y S F"] | Float[Array, "B W Y h F"]
    v: Float[Array, "B Y S F"] | Float[Array, "B W Y h F"]
    visible: Bool[Array, "B W S"]


def _read(
    cache: SlotCache, pattern: Pattern, index: Int[Array, " B"], window: int, group: Int[Array, ""] | None
) -> VisibleCodes:
    """Return the keys and values that queries at codes ``index`` to ``index + W - 1`` may see."""
    codes = index[:, None] + jnp.arange(window)  # [B W]
    k, v = of_group((cache.k, cache.v), group)
    if pattern.kind == "column":
        rows, columns = jnp.arange(index.shape[0])[:, None], codes % pattern.grid[1]
        k, v = k[rows, :, columns], v[rows, :, columns]
    return VisibleCodes(k, v, _visible(cache, pattern, codes))


def _visible(cache: SlotCache, pattern: Pattern, codes: Int[Array, "B W"]) -> Bool[Array, "B W S"]:
    """Return the places of the room that each code may see; in column attention, those of its column."""
    if pattern.kind == "column":
        return jnp.arange(pattern.grid[0]) <= (codes // pattern.grid[1])[..., None]
    size, last = cache.k.shape[-2], codes[:, -1:]
    stored = last - (last - jnp.arange(size)) % size  # [B S], the code in each place; negative if there is none
    distance = codes[:, :, None] - stored[:, None]  # [B W S]
    allowed = jnp.asarray(pattern.distances())
    near = (stored[:, None] >= 0) & (distance >= 0) & (distance < allowed.shape[0])
    return near if pattern.distances().all() else near & allowed[jnp.clip(distance, 0, allowed.shape[0] - 1)]


Tree = TypeVar("Tree")


def of_group(tree: Tree, group: Int[Array, ""] | None) -> Tree:
    """Return one layer's arrays of a scanned stack; without a group, return them unchanged."""
    if group is None:
        return tree
    return jax.tree.map(lambda leaf: jax.lax.dynamic_index_in_dim(leaf, group, 1, keepdims=False), tree)


def window_attention(
    q: Float[Array, "B W N H"],
    cache: SlotCache,
    pattern: Pattern,
    index: Int[Array, " B"],
    context: Int[Array, " B"] | None,
    seen: Bool[Array, "X C"] | None = None,
    group: Int[Array, ""] | None = None,
    *,
    backend: DecodeBackend = "auto",
) -> Float[Array, "B W N H"]:
    """Attend from codes ``index`` to ``index + W - 1``, which are written, to the context, earlier codes and each self.

    ``context`` is the context of each row. ``seen`` marks the visible positions of the contexts; None makes all of them
    visible. ``group`` is the index on the axis of layers, in a scanned stack.
    """
    shape, lead = q.shape, 0 if group is None else 1
    heads = cache.k.shape[1 + lead] * cache.k.shape[-1] // shape[-1]  # G
    context_k, context_v = of_group((cache.context_k, cache.context_v), group)
    shared = arrange_contexts(context_k, context_v, seen, context, shape[0])
    q = spread_queries(q * q.shape[-1] ** -0.5, heads, cache.k.shape[-1])
    q, r = group_heads(q, context_k.shape[1], axis=2)  # [B W N F], or [B W Y R F]
    grouped = q.reshape(shared.k.shape[0], -1, *q.shape[1:])  # [A B/A W ...]
    product = functools.partial(jnp.einsum, precision=precision_of(q.dtype))
    first = product(f"abwy{r}f,aycf->abwy{r}c", grouped, shared.k, preferred_element_type=jnp.float32)
    first = first.reshape(*q.shape[:-1], -1)  # [B W N C], or [B W Y R C]
    if shared.seen is not None:
        first = jnp.where(jnp.expand_dims(shared.seen, tuple(range(1, first.ndim - 1))), first, MASKED_SCORE)
    if choose_decode_backend(q, pattern, backend) == "pallas":
        out = _kernel_attention(q, first, shared.v, cache, pattern, index, group)
        return own_columns(out, heads, shape[-1])
    codes = _read(cache, pattern, index, shape[1], group)
    image_axes = "bwysf" if pattern.kind == "column" else "bysf"
    image = product(f"bwy{r}f,{image_axes}->bwy{r}s", q, codes.k, preferred_element_type=jnp.float32)
    visible = jnp.expand_dims(codes.visible, tuple(range(2, image.ndim - 1)))
    scores = jnp.concatenate([first, jnp.where(visible, image, MASKED_SCORE)], axis=-1)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))  # [B W N C+S], not normalised
    total = weights.sum(axis=-1, keepdims=True).reshape(*shape[:-1], 1)
    weights, split = weights.astype(q.dtype), shared.k.shape[2]
    first = weights[..., :split].reshape(*grouped.shape[:-1], split)
    out = product(f"abwy{r}c,aycf->abwy{r}f", first, shared.v).reshape(q.shape)
    out = out + product(f"bwy{r}s,{image_axes}->bwy{r}f", weights[..., split:], codes.v)
    return own_columns(out.reshape(*shape[:-1], -1), heads, shape[-1]) / total.astype(q.dtype)


def _kernel_attention(
    q: Float[Array, "B W *heads F"],
    scores: Float[Array, "B W *heads C"],
    context_v: Float[Array, "A Y C F"],
    cache: SlotCache,
    pattern: Pattern,
    index: Int[Array, " B"],
    group: Int[Array, ""] | None,
) -> Float[Array, "B W N F"]:
    """Attend to the context, whose ``scores`` are computed, by XLA, and then to the codes by the decode kernel."""
    (rows, window), heads, width = q.shape[:2], context_v.shape[1], q.shape[-1]
    per_head = math.prod(q.shape[2:-1]) // heads  # R
    apart = window if pattern.kind == "column" else 1  # V: each code of a window has a column of its own

    def by_head(x: Array) -> Array:
        x = x.reshape(rows, apart, window // apart, heads, per_head, x.shape[-1]).swapaxes(2, 3)
        return x.reshape(rows, apart, heads, -1, x.shape[-1])  # [B V Y Q ...], with Q = W/V * R

    greatest = scores.max(axis=-1, keepdims=True)
    weights = jnp.exp(scores - greatest)
    total, weights = weights.sum(axis=-1, keepdims=True), weights.astype(q.dtype)
    grouped = weights.reshape(context_v.shape[0], -1, window, heads, per_head, weights.shape[-1])
    product = functools.partial(jnp.einsum, precision=precision_of(q.dtype), preferred_element_type=jnp.float32)
    values = product("abwyrc,aycf->abwyrf", grouped, context_v)
    sums = SoftmaxSums(by_head(greatest), by_head(total), by_head(values))
    codes = index[:, None] + jnp.arange(window)
    column = codes % pattern.grid[1] if pattern.kind == "column" else jnp.zeros((rows, 1), jnp.int32)
    visible = _visible(cache, pattern, codes).reshape(rows, apart, window // apart, -1)
    room = _room(cache.k, pattern, group), _room(cache.v, pattern, group)
    out = decode_attention(
        by_head(q),
        *room,
        RoomPlaces(_layer(group), column.astype(jnp.int32)),
        jnp.repeat(visible, per_head, axis=2),
        sums,
    )  # [B V Y Q F]
    out = out.reshape(rows, apart, heads, window // apart, per_head, width).swapaxes(2, 3)
    return out.reshape(rows, window, -1, width)
