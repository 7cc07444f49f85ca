"""Attention from a few queries of each row to its cached codes on TPUs: a Pallas kernel in the form of flash-decoding.

It reads the blocks of a row's cache up to the last visible code, where XLA reads the whole room; the other blocks are
neither fetched nor computed. The softmax is accumulated block by block in float32 (Dao et al. 2023, "Flash-Decoding",
and arXiv 2205.14135, algorithm 1). It starts from the attention to the context, which XLA computes once for all rows
that share the context. The caller gives the exact mask, so every kind of attention runs the same program.

The kernels that come with jax do not fit: paged attention for TPUs needs heads of width 128, and none takes a mask or
the sums of an earlier part. Letters: B rows of the cache, V queries of a row that read different columns, Y packed
heads of width F (layers/head_groups.py), Q queries of a packed head that read the same, S codes in the room.
"""

import functools
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern
from dalle_jax.layers.head_groups import LANES
from dalle_jax.parallel.axes import BATCH, HEADS
from dalle_jax.parallel.layout import map_shards, platform

DecodeBackend: TypeAlias = Literal["auto", "xla", "pallas"]
"""The implementation of attention to cached codes; ``auto`` is the kernel on a TPU in bfloat16, and else XLA."""

BLOCK = 128
"""The number of codes that the kernel reads at once."""

SUBLANES = 8
"""The rows of a TPU's tile of float32."""


class SoftmaxSums(NamedTuple):
    """The softmax over a first part of the keys: its greatest score, the sum of exp(score - greatest), and of values.

    All are float32, and none is normalised.
    """

    greatest: Float[Array, "B V Y Q 1"]
    total: Float[Array, "B V Y Q 1"]
    values: Float[Array, "B V Y Q F"]


class RoomPlaces(NamedTuple):
    """The parts of a cache [B L Y w S F] that queries [B V ...] read: a layer, and a column for each V."""

    layer: Int[Array, " 1"]
    column: Int[Array, "B V"]


def decode_obstacle(x: Float[Array, "B W ..."], pattern: Pattern) -> str | None:
    """Return why the kernel should not compute W codes of each row, or None if it should.

    Its products of float32 operands have a TPU's default precision, which rounds them to bfloat16.
    """
    if x.dtype != jnp.bfloat16:
        return f"the decode kernel computes in bfloat16, got {x.dtype}"
    if pattern.kind == "column" and x.shape[1] > pattern.grid[1]:
        return f"a window of column attention has at most the grid's {pattern.grid[1]} columns, got {x.shape[1]}"
    return None


def choose_decode_backend(
    x: Float[Array, "B W ..."], pattern: Pattern, backend: DecodeBackend
) -> Literal["xla", "pallas"]:
    """Resolve ``auto`` to a backend for queries or keys of W codes of each row, and check any other choice.

    Raises UserError if the kernel cannot compute them on this platform.
    """
    here = platform()
    if backend == "xla" or here == "none":
        return "xla"
    obstacle = f"expected to run on a tpu, got a {here}" if here != "tpu" else decode_obstacle(x, pattern)
    if obstacle is None:
        return "pallas"
    if backend == "auto":
        return "xla"
    raise UserError(f"attention = {backend!r}: {obstacle}; 'xla' runs everywhere")


def decode_attention(
    q: Float[Array, "B V Y Q F"],
    k: Float[Array, "B L Y w S F"],
    v: Float[Array, "B L Y w S F"],
    places: RoomPlaces,
    visible: Bool[Array, "B V Q S"],
    sums: SoftmaxSums,
) -> Float[Array, "B V Y Q F"]:
    """Attend from scaled queries to the visible codes of their places, after the keys of ``sums``.

    Each device computes its own rows and heads.
    """
    of_queries, of_cache = (BATCH, None, HEADS, None, None), (BATCH, None, HEADS, None, None, None)
    axes = (of_queries, of_cache, of_cache, (None,), (BATCH, None), (BATCH, None, None, None), *(of_queries,) * 3)
    return map_shards(_decode, axes, of_queries, q, k, v, *places, visible, *sums)


def _decode(q: Array, k: Array, v: Array, layer: Array, column: Array, visible: Array, *sums: Array) -> Array:
    """Compute ``decode_attention`` on one device."""
    from jax.experimental import pallas as pl  # imported here, since the import takes a second
    from jax.experimental.pallas import tpu as pltpu

    (_, apart, heads, queries, width), room = q.shape, k.shape[-2]
    padded = -(-queries // SUBLANES) * SUBLANES
    block = min(BLOCK, -(-room // SUBLANES) * SUBLANES)
    q, column, visible, greatest, total, values = (
        x.reshape(-1, *x.shape[2:]) for x in (q, column, visible, *sums)
    )  # [B*V ...]
    start = jnp.concatenate([values, greatest, total, jnp.zeros((*total.shape[:-1], LANES - 2))], axis=-1)

    def pad(x: Array, axis: int, value: float = 0.0) -> Array:
        widths = [(0, 0)] * x.ndim
        widths[axis] = (0, padded - queries)
        return jnp.pad(x, widths, constant_values=value)

    last = jnp.where(visible, jnp.arange(1, room + 1), 0).max(axis=(1, 2))  # [B*V]
    needed = jnp.maximum(1, -(-last // block)).astype(jnp.int32)

    def of_row(row: Any, step: Any, *scalars: Any) -> tuple[Any, ...]:
        del step, scalars
        return row, 0, 0, 0

    def of_mask(row: Any, step: Any, needed: Any, *places: Any) -> tuple[Any, ...]:
        del places
        return row, 0, jnp.minimum(step, needed[row] - 1)

    def of_room(row: Any, step: Any, needed: Any, layer: Any, column: Any) -> tuple[Any, ...]:
        return row // apart, layer[0], 0, column[row], jnp.minimum(step, needed[row] - 1), 0

    cached = pl.BlockSpec((None, None, heads, None, block, width), of_room)
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3,
        grid=(len(q), pl.cdiv(room, block)),
        in_specs=[
            pl.BlockSpec((None, heads, padded, width), of_row), cached, cached,
            pl.BlockSpec((None, padded, block), of_mask), pl.BlockSpec((None, heads, padded, width + LANES), of_row),
        ],
        out_specs=pl.BlockSpec((None, heads, padded, width), of_row),
        scratch_shapes=[pltpu.VMEM((heads, padded, size), jnp.float32) for size in (1, 1, width)],
    )  # fmt: skip
    out = pl.pallas_call(
        functools.partial(_kernel, room=room), grid_spec=spec, name="decode_attention",
        out_shape=jax.ShapeDtypeStruct((len(q), heads, padded, width), q.dtype),
    )(needed, layer, column, pad(q, 2), k, v, pad(visible.astype(jnp.float32), 1), pad(start, 2, 1.0))  # fmt: skip
    return out[:, :, :queries].reshape(-1, apart, heads, queries, width)


def _kernel(
    needed: Any, layer: Any, column: Any, q: Any, k: Any, v: Any, visible: Any, start: Any, out: Any,
    greatest: Any, total: Any, values: Any, *, room: int,
) -> None:  # fmt: skip
    """Add one block of codes to the sums of one row."""
    from jax.experimental import pallas as pl

    del layer, column
    row, step = pl.program_id(0), pl.program_id(1)
    width = values.shape[-1]

    @pl.when(step == 0)
    def begin() -> None:
        values[...] = start[:, :, :width]
        greatest[...] = start[:, :, width : width + 1]
        total[...] = start[:, :, width + 1 : width + 2]

    @pl.when(step < needed[row])
    def add() -> None:
        keys, block = k[...], k[...].shape[1]
        scores = jax.lax.dot_general(
            q[...], keys.astype(q.dtype), (((2,), (2,)), ((0,), (0,))), preferred_element_type=jnp.float32
        )  # [Y Q block]
        scores = jnp.where(visible[...][None] > 0, scores, MASKED_SCORE)
        highest = jnp.maximum(greatest[...], scores.max(axis=-1, keepdims=True))
        weights, shrink = jnp.exp(scores - highest), jnp.exp(greatest[...] - highest)
        inside = v[...]
        if room % block:  # the last block ends beyond the room, where values are undefined
            codes = step * block + jax.lax.broadcasted_iota(jnp.int32, inside.shape, 1)
            inside = jnp.where(codes < room, inside, jnp.zeros_like(inside))
        product = jax.lax.dot_general(
            weights.astype(q.dtype), inside.astype(q.dtype), (((2,), (1,)), ((0,), (0,))),
            preferred_element_type=jnp.float32,
        )  # fmt: skip
        greatest[...] = highest
        total[...] = shrink * total[...] + weights.sum(axis=-1, keepdims=True)
        values[...] = shrink * values[...] + product

    @pl.when(step == pl.num_programs(1) - 1)
    def end() -> None:
        out[...] = (values[...] / total[...]).astype(out.dtype)
