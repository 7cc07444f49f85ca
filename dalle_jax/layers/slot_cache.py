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
from typing import NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern
from dalle_jax.layers.head_groups import group_heads, own_columns, spread_queries
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import precision_of
from dalle_jax.parallel.axes import BATCH, HEADS, LAYERS
from dalle_jax.parallel.layout import constrain

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
    """Return the longest distance between a query and its keys, plus the window."""
    reach = min(len(pattern.distances()) - 1, max(0, pattern.positions - 2))  # the last code is never an input
    return reach + window


def write_window(
    cache: SlotCache,
    pattern: Pattern,
    k: Float[Array, "B W G H"],
    v: Float[Array, "B W G H"],
    index: Int[Array, " B"],
    group: Int[Array, ""] | None = None,
) -> SlotCache:
    """Write the keys and values of codes ``index`` to ``index + W - 1`` of each row.

    ``group`` is the index on the axis of layers, in a scanned stack.
    """
    rows, codes = jnp.arange(k.shape[0])[:, None], index[:, None] + jnp.arange(k.shape[1])  # [B 1], [B W]
    layer: tuple[Array, ...] = () if group is None else (group,)
    place: tuple[Array, ...] = (codes % cache.k.shape[-2],)
    if pattern.kind == "column":
        place = (codes % pattern.grid[1], codes // pattern.grid[1])  # rows beyond the grid are dropped
    at = (rows, *layer, slice(None), *place)
    packed = (*k.shape[:2], cache.context_k.shape[1 + len(layer)], cache.k.shape[-1])  # [B W Y F]

    def put(old: Array, new: Array) -> Array:
        return old.at[at].set(new.reshape(packed).astype(old.dtype), mode="drop")

    k, v = put(cache.k, k), put(cache.v, v)
    return shard(cache._replace(k=k, v=v))


class VisibleCodes(NamedTuple):
    """The places of the room that the queries of a window read, and the mask."""

    k: Float[Array, "B Y S F"] | Float[Array, "B W Y h F"]
    v: Float[Array, "B Y S F"] | Float[Array, "B W Y h F"]
    visible: Bool[Array, "B W S"]


def _read(cache: SlotCache, pattern: Pattern, index: Int[Array, " B"], window: int) -> VisibleCodes:
    """Return the keys and values that queries at codes ``index`` to ``index + W - 1`` may see."""
    codes = index[:, None] + jnp.arange(window)  # [B W]
    if pattern.kind == "column":
        rows, columns = jnp.arange(index.shape[0])[:, None], codes % pattern.grid[1]
        visible = jnp.arange(pattern.grid[0]) <= (codes // pattern.grid[1])[..., None]
        return VisibleCodes(cache.k[rows, :, columns], cache.v[rows, :, columns], visible)
    size, last = cache.k.shape[-2], codes[:, -1:]
    stored = last - (last - jnp.arange(size)) % size  # [B S], the code in each place; negative if there is none
    distance = codes[:, :, None] - stored[:, None]  # [B W S]
    allowed = jnp.asarray(pattern.distances())
    near = (stored[:, None] >= 0) & (distance >= 0) & (distance < allowed.shape[0])
    visible = near if pattern.distances().all() else near & allowed[jnp.clip(distance, 0, allowed.shape[0] - 1)]
    return VisibleCodes(cache.k, cache.v, visible)


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
) -> Float[Array, "B W N H"]:
    """Attend from codes ``index`` to ``index + W - 1``, which are written, to the context, earlier codes and each self.

    ``context`` is the context of each row. ``seen`` marks the visible positions of the contexts; None makes all of them
    visible.
    """
    codes, shape = _read(cache, pattern, index, q.shape[1]), q.shape
    heads = cache.k.shape[1] * cache.k.shape[-1] // shape[-1]  # G
    image_axes = "bwysf" if pattern.kind == "column" else "bysf"
    shared = arrange_contexts(cache.context_k, cache.context_v, seen, context, shape[0])
    q = spread_queries(q * q.shape[-1] ** -0.5, heads, cache.k.shape[-1])
    q, r = group_heads(q, cache.k.shape[1], axis=2)  # [B W N F], or [B W Y R F]
    product = functools.partial(jnp.einsum, precision=precision_of(q.dtype))
    grouped = q.reshape(shared.k.shape[0], -1, *q.shape[1:])  # [A B/A W ...]
    first = product(f"abwy{r}f,aycf->abwy{r}c", grouped, shared.k, preferred_element_type=jnp.float32)
    first = first.reshape(*q.shape[:-1], -1)  # [B W N C], or [B W Y R C]
    if shared.seen is not None:
        first = jnp.where(jnp.expand_dims(shared.seen, tuple(range(1, first.ndim - 1))), first, MASKED_SCORE)
    image = product(f"bwy{r}f,{image_axes}->bwy{r}s", q, codes.k, preferred_element_type=jnp.float32)
    visible = jnp.expand_dims(codes.visible, tuple(range(2, image.ndim - 1)))
    scores = jnp.concatenate([first, jnp.where(visible, image, MASKED_SCORE)], axis=-1)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))  # [B W N C+S], not normalised
    total = weights.sum(axis=-1, keepdims=True).reshape(*shape[:-1], 1)
    weights, split = weights.astype(q.dtype), shared.k.shape[2]
    first = weights[..., :split].reshape(*grouped.shape[:-1], split)
    out = product(f"abwy{r}c,aycf->abwy{r}f", first, shared.v).reshape(q.shape)
    out = out + product(f"bwy{r}s,{image_axes}->bwy{r}f", weights[..., split:], codes.v)
    out = own_columns(out.reshape(*shape[:-1], -1), heads, shape[-1])
    return out / total.astype(q.dtype)
