"""Who sees whom in a stream of context tokens (text, start) followed by a grid of image codes (DALL·E 1, figure 11).

Every position sees the positions up to itself; all image tokens see all of the context. Of the image tokens before it
and of itself, an image token sees
    full            all
    row             itself and the w before it in raster order (so back to the same column of the previous row)
    column          those of its column
    convolutional   those at raster distance a*w + b, 0 <= a <= k//2, |b| <= k//2: the upper half of a k x k window,
                    which wraps around at the edges as row attention does
"""

from dataclasses import dataclass
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float

Kind: TypeAlias = Literal["full", "row", "column", "convolutional"]

MASKED_SCORE = -1e30
"""The score of a masked pair: finite, so that a row with no visible key gives the mean of the values and not NaN."""


@dataclass(frozen=True)
class Pattern:
    """A kind of attention over ``context`` tokens and then codes on ``grid`` (h, w); ``kernel`` (odd) is k.

    Codes may be fewer than h * w: the last one is never an input.
    """

    kind: Kind
    context: int
    grid: tuple[int, int]
    kernel: int = 11

    @property
    def positions(self) -> int:
        """I, the number of codes."""
        return self.grid[0] * self.grid[1]

    def distances(self) -> np.ndarray:
        """Bool [R]: is the code at raster distance 0, 1, ..., R - 1 visible? Further ones never are.

        Not for column attention, where it depends on the position.
        """
        width, reach = self.grid[1], self.kernel // 2
        if self.kind == "full":
            return np.ones(self.positions, bool)
        if self.kind == "row":
            return np.ones(min(width + 1, self.positions), bool)
        rows, offsets = np.mgrid[: reach + 1, -reach : reach + 1]
        visible = np.zeros(reach * width + reach + 1, bool)
        distances = rows * width + offsets
        visible[distances[distances >= 0]] = True
        return visible[: self.positions]

    def image_mask(self, codes: int) -> np.ndarray:
        """Bool [codes codes]: does code i (row) see code j (column)?"""
        i = np.arange(codes)
        distance = i[:, None] - i[None, :]
        if self.kind == "column":
            return (distance >= 0) & (distance % self.grid[1] == 0)
        visible = self.distances()
        inside = (distance >= 0) & (distance < len(visible))
        return inside & visible[np.clip(distance, 0, len(visible) - 1)]

    def mask(self, length: int) -> np.ndarray:
        """Bool [length length]: does stream position i (row) see j (column)? Context first, then codes."""
        mask = np.tril(np.ones((length, length), bool))
        if length > self.context:
            mask[self.context :, self.context :] = self.image_mask(length - self.context)
        return mask

    def transposed_mask(self) -> np.ndarray:
        """``mask`` of the context and all I codes, these in the order of their columns: column by column, downwards."""
        whole, (height, width) = self.context + self.positions, self.grid
        raster = np.arange(self.positions).reshape(height, width).T.reshape(-1)
        mask = self.mask(whole)
        mask[self.context :, self.context :] = self.image_mask(self.positions)[np.ix_(raster, raster)]
        return mask


def repeat_kinds(pattern: tuple[Kind, ...], last: Kind | None, depth: int) -> tuple[Kind, ...]:
    """The kind of each layer: ``pattern`` over and over, the last layer replaced by ``last`` if that is given.

    DALL·E 1 is ("row", "column", "row", "row") with last "convolutional" at depth 64.
    """
    kinds = [pattern[i % len(pattern)] for i in range(depth)]
    return (*kinds[:-1], last) if last is not None else tuple(kinds)


def transpose_grid(x: Float[Array, "B N L H"], context: int, lines: tuple[int, int]) -> Float[Array, "B N L H"]:
    """Reorders the codes of a whole stream (L = context + I) from lines of ``lines[1]`` to lines of ``lines[0]``."""
    first, image = jax.lax.split(x, (context, x.shape[2] - context), 2)  # its gradient is a join, that of slices is not
    image = image.reshape(*x.shape[:2], *lines, x.shape[-1]).swapaxes(2, 3)
    return jnp.concatenate([first, image.reshape(*x.shape[:2], -1, x.shape[-1])], axis=2)
