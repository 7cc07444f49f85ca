"""Learned embedding tables for tokens, positions and 2-D grids of positions."""

import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.layers.linear import Initializer
from dalle_jax.parallel.axes import BATCH, EMBED, POSITIONS
from dalle_jax.parallel.layout import axis_after_batch, constrain
from dalle_jax.parallel.reduction import gradient_dtype


class EmbeddingParam(nnx.Param):
    """A learned embedding table or vector.

    Fine-tuning may train only embeddings and norms (train/optim/parameter_masks.py).
    """


def lookup(
    table: Float[Array, "size D"], index: Int[Array, "..."], dtype: DTypeLike, axis: str
) -> Float[Array, "... D"]:
    """Return the rows of a table at ``index``, in ``dtype``; an index outside it is clipped to the nearest row.

    The gradient of a row is the sum over all its look-ups. It is summed in ``gradient_dtype()``, not in ``dtype``.
    ``axis`` is the logical axis of the table's first dimension. Devices gather the table's width before the look-up and
    split the gradient's after it, so rows stay split by batch. Otherwise XLA replicates all rows on every device
    ("involuntary full rematerialization"), since it cannot go from rows split by batch to rows split by width.
    """
    return _lookup(table, index, jnp.dtype(dtype).name, gradient_dtype().name, axis)


def _split_by_batch(rows: Array) -> Array:
    """Constrain looked-up rows [B D] or [B L D]; of other shapes, the first dimension may not be the batch."""
    if rows.ndim == 2:
        return constrain(rows, BATCH, None)
    return constrain(rows, BATCH, axis_after_batch(rows.shape[0]), None) if rows.ndim == 3 else rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _lookup(table: Array, index: Array, dtype: str, summed_in: str, axis: str) -> Array:
    del summed_in
    return _split_by_batch(jnp.take(constrain(table.astype(dtype), axis, None), index, axis=0, mode="clip"))


def _lookup_forward(
    table: Array, index: Array, dtype: str, summed_in: str, axis: str
) -> tuple[Array, tuple[Array, Array]]:
    return _lookup(table, index, dtype, summed_in, axis), (table, index)


def _lookup_backward(
    dtype: str, summed_in: str, axis: str, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, None]:
    del dtype
    table, index = residuals
    zeros = constrain(jnp.zeros(table.shape, summed_in), axis, None)
    found = zeros.at[index].add(_split_by_batch(gradient.astype(summed_in)), mode="clip")
    return constrain(constrain(found, axis, None), axis, EMBED).astype(table.dtype), None


_lookup.defvjp(_lookup_forward, _lookup_backward)


def broadcast_param(x: Float[Array, "..."], rows: int | None, dtype: DTypeLike) -> Float[Array, "..."]:
    """Broadcast a parameter over ``rows`` (None: no new axis), then cast it to ``dtype``.

    The cast comes last, so the gradients of all rows are summed in the parameter's own dtype.
    """
    return (x if rows is None else jnp.broadcast_to(x, (rows, *x.shape))).astype(dtype)


class Embedding(nnx.Module):
    """A learned table [size D]; ``axis`` is the logical axis of its first dimension (VOCAB, CODES, POSITIONS)."""

    def __init__(
        self, size: int, width: int, *, axis: str, dtype: DTypeLike = jnp.float32, init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        init = init or nnx.initializers.normal(0.02)
        self.dtype, self.axis = jnp.dtype(dtype), axis
        self.table = EmbeddingParam(init(rngs.params(), (size, width), jnp.float32), axes=(axis, EMBED))

    def __call__(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Return the rows of the table at ``index``; an index outside it is clipped to the nearest row."""
        return lookup(self.table[...], index, self.dtype, self.axis)

    def all(self, rows: int | None = None) -> Float[Array, "size D"] | Float[Array, "B size D"]:
        """Return the whole table, or with ``rows`` a copy per batch row (``broadcast_param``)."""
        return broadcast_param(self.table[...], rows, self.dtype)


class GridEmbedding(nnx.Module):
    """A learned vector per row plus one per column of a grid h x w, in raster order (DALL·E 1, section 2.2)."""

    def __init__(
        self, grid: tuple[int, int], width: int, *, dtype: DTypeLike = jnp.float32, init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.rows = Embedding(grid[0], width, axis=POSITIONS, dtype=dtype, init=init, rngs=rngs)
        self.columns = Embedding(grid[1], width, axis=POSITIONS, dtype=dtype, init=init, rngs=rngs)
        self.grid_width = grid[1]

    def __call__(self, position: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Return the vector at raster ``position``."""
        row = lookup(self.rows.table[...], position // self.grid_width, jnp.float32, POSITIONS)
        column = lookup(self.columns.table[...], position % self.grid_width, jnp.float32, POSITIONS)
        return (row + column).astype(self.rows.dtype)

    def all(self, rows: int | None = None) -> Float[Array, "I D"] | Float[Array, "B I D"]:
        """Return the vectors of all I = h * w positions in raster order; ``rows`` is as in ``Embedding.all``."""
        table = self.rows.table[...][:, None] + self.columns.table[...][None, :]  # [h w D]
        return broadcast_param(table.reshape(-1, table.shape[-1]), rows, self.rows.dtype)
