"""Tables of learned vectors: for tokens, for positions and for grids of positions."""

from typing import Any

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.layers.linear import Initializer
from dalle_jax.parallel.axes import EMBED, POSITIONS


class Embedding(nnx.Module):
    """A table [size D] of learned vectors; ``axis`` names its first dimension (VOCAB, CODES, POSITIONS)."""

    def __init__(
        self, size: int, width: int, *, axis: str, dtype: Any = jnp.float32, init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        init = init or nnx.initializers.normal(0.02)
        self.dtype = jnp.dtype(dtype)
        self.table = nnx.Param(init(rngs.params(), (size, width), jnp.float32), axes=(axis, EMBED))

    def __call__(self, index: Int[Array, "..."]) -> Float[Array, "... D"]:
        """The rows of the table at ``index``; an index outside it is clipped to the nearest row."""
        return jnp.take(self.table[...].astype(self.dtype), index, axis=0, mode="clip")

    def all(self) -> Float[Array, "size D"]:
        """The whole table."""
        return self.table[...].astype(self.dtype)


class GridEmbedding(nnx.Module):
    """A vector per row plus a vector per column of a grid h x w, in raster order (DALL·E 1, section 2.2)."""

    def __init__(
        self, grid: tuple[int, int], width: int, *, dtype: Any = jnp.float32, init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.rows = Embedding(grid[0], width, axis=POSITIONS, dtype=dtype, init=init, rngs=rngs)
        self.columns = Embedding(grid[1], width, axis=POSITIONS, dtype=dtype, init=init, rngs=rngs)
        self.grid_width = grid[1]

    def __call__(self, position: Int[Array, "..."]) -> Float[Array, "... D"]:
        """The vector of raster ``position``."""
        return self.rows(position // self.grid_width) + self.columns(position % self.grid_width)

    def all(self) -> Float[Array, "I D"]:
        """The vectors of all I = h * w positions, in raster order."""
        table = self.rows.all()[:, None] + self.columns.all()[None, :]  # [h w D]
        return table.reshape(-1, table.shape[-1])
