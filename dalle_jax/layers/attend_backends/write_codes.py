"""The write of a window's keys and values into the cache of the decode kernel, in place.

A TPU kernel, since XLA's scatter wants another layout than the decode kernel: with both, XLA copied the whole cache in
every layer. The kernel reads the tiles of 16 codes that a window touches, replaces the codes and writes the tiles back.
Letters are those of attend_decode.py; W codes are written to T tiles of a row.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers.linear import precision_of
from dalle_jax.parallel.axes import BATCH, HEADS
from dalle_jax.parallel.layout import map_shards

ROOM_TILE = 16
"""The codes of a tile: the rows of a TPU's tile of bfloat16. A room has whole tiles, or XLA would copy it."""


class TilePlaces(NamedTuple):
    """The tiles of each row, all different: their layer, column and number, and which code each place of them gets."""

    layer: Int[Array, " 1"]
    column: Int[Array, "B T"]
    tile: Int[Array, "B T"]
    chosen: Bool[Array, "B T tile W"]


def ring_places(layer: Int[Array, " 1"], codes: Int[Array, "B W"], room: int) -> TilePlaces:
    """Return the places of adjacent codes in a ring buffer of ``room`` codes, which are whole tiles."""
    window, tiles = codes.shape[1], room // ROOM_TILE
    touched = jnp.arange(min(tiles, (window + ROOM_TILE - 2) // ROOM_TILE + 1))
    place = codes % room
    tile = (place[:, :1] // ROOM_TILE + touched) % tiles  # [B T]
    inside = tile[..., None] * ROOM_TILE + jnp.arange(ROOM_TILE)  # [B T tile]
    return TilePlaces(layer, jnp.zeros_like(tile), tile, inside[..., None] == place[:, None, None])


def column_places(layer: Int[Array, " 1"], codes: Int[Array, "B W"], grid: tuple[int, int]) -> TilePlaces:
    """Return the places of at most w adjacent codes in columns; codes beyond the grid (h, w) are dropped."""
    height, width = grid
    row, column = codes // width, codes % width
    size = height if height % ROOM_TILE else ROOM_TILE
    tile = jnp.minimum(row, height - 1) // size
    same = jnp.eye(codes.shape[1], dtype=bool)[:, None]  # [T 1 W]
    inside = tile[..., None] * size + jnp.arange(size)  # [B T tile]
    return TilePlaces(layer, column, tile, (inside == row[..., None])[..., None] & same)


def write_codes(
    k: Float[Array, "B L Y w S F"],
    v: Float[Array, "B L Y w S F"],
    new_k: Float[Array, "B Y W F"],
    new_v: Float[Array, "B Y W F"],
    places: TilePlaces,
) -> tuple[Array, Array]:
    """Write the keys and values of W codes and return both caches. Each device writes its own rows and heads."""
    of_cache, of_new = (BATCH, None, HEADS, None, None, None), (BATCH, HEADS, None, None)
    axes = (of_cache, of_cache, of_new, of_new, (None,), (BATCH, None), (BATCH, None), (BATCH, None, None, None))

    def write(k: Array, v: Array, new_k: Array, new_v: Array, *places: Array) -> tuple[Array, Array]:
        return _write(k, v, new_k.astype(k.dtype), new_v.astype(v.dtype), TilePlaces(*places))

    return map_shards(write, axes, of_cache, k, v, new_k, new_v, *places)


def _write(k: Array, v: Array, new_k: Array, new_v: Array, places: TilePlaces) -> tuple[Array, Array]:
    from jax.experimental import pallas as pl  # imported here, since the import takes a second
    from jax.experimental.pallas import tpu as pltpu

    (rows, tiles, size, window), (heads, width) = places.chosen.shape, (k.shape[2], k.shape[-1])

    def of_row(row: Any, step: Any, *scalars: Any) -> tuple[Any, ...]:
        del step, scalars
        return row, 0, 0, 0

    def of_tile(row: Any, step: Any, layer: Any, column: Any, tile: Any) -> tuple[Any, ...]:
        return row, layer[0], 0, column[row, step], tile[row, step], 0

    cached = pl.BlockSpec((None, None, heads, None, size, width), of_tile)
    fresh = pl.BlockSpec((None, heads, window, width), of_row)
    chosen = pl.BlockSpec((None, None, size, window), lambda row, step, *scalars: (row, step, 0, 0))
    spec = pltpu.PrefetchScalarGridSpec(
        num_scalar_prefetch=3, grid=(rows, tiles), in_specs=[cached, cached, fresh, fresh, chosen],
        out_specs=[cached, cached],
    )  # fmt: skip
    shapes = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in (k, v)]
    scalars = (x.astype(jnp.int32) for x in (places.layer, places.column, places.tile))
    return pl.pallas_call(
        _kernel, grid_spec=spec, out_shape=shapes, input_output_aliases={3: 0, 4: 1}, name="write_codes",
    )(*scalars, k, v, new_k, new_v, places.chosen.astype(k.dtype))  # fmt: skip


def _kernel(
    layer: Any, column: Any, tile: Any, k: Any, v: Any, new_k: Any, new_v: Any, chosen: Any, out_k: Any, out_v: Any
) -> None:
    """Replace the chosen codes of one tile; a product with ones and zeros moves each code to its place exactly."""
    del layer, column, tile
    heads, moves = k.shape[0], chosen[...]
    written = moves.astype(jnp.float32).sum(axis=-1, keepdims=True) > 0  # [tile 1]
    moves = jnp.broadcast_to(moves[None], (heads, *moves.shape))
    for old, new, out in ((k, new_k, out_k), (v, new_v, out_v)):
        moved = jax.lax.dot_general(
            moves,
            new[...],
            (((2,), (1,)), ((0,), (0,))),
            precision=precision_of(old.dtype),
            preferred_element_type=jnp.float32,
        )  # [Y tile F]
        out[...] = jnp.where(written[None], moved.astype(out.dtype), old[...])
