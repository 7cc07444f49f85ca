"""Attention masks of a stream of context tokens (text, start) and then a grid of image codes.

The patterns are DALL·E 1's (Ramesh et al. 2021, arXiv 2102.12092, figure 11). Attention is causal, and every image
token attends to the whole context. Among image tokens, a token attends to itself and, of the earlier ones, to
    full            all
    row             the w before it in raster order, back to the same column of the previous row
    column          those in its column
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
"""The score of a masked pair. It is finite, so a query without visible keys gets the mean of the values, not NaN."""


@dataclass(frozen=True)
class Pattern:
    """A kind of attention over a stream of ``context`` tokens, followed by the codes of a ``grid`` (h, w).

    ``kernel``, an odd number, is the side k of the convolutional window; the other kinds do not use it. A stream
    may have fewer codes than h * w, since the last code is never an input.
    """

    kind: Kind
    context: int
    grid: tuple[int, int]
    kernel: int = 11

    @property
    def positions(self) -> int:
        """The number of codes, I = h * w."""
        return self.grid[0] * self.grid[1]

    def distances(self) -> np.ndarray:
        """Return bool [R]: entry d is True if a code attends to the code at raster distance d.

        Codes at distance R or more are never visible. Undefined for column attention, which depends on the position.
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
        """Return the mask of image codes, bool [codes codes]: True if code i (row) attends to code j (column)."""
        i = np.arange(codes)
        distance = i[:, None] - i[None, :]
        if self.kind == "column":
            return (distance >= 0) & (distance % self.grid[1] == 0)
        visible = self.distances()
        inside = (distance >= 0) & (distance < len(visible))
        return inside & visible[np.clip(distance, 0, len(visible) - 1)]

    def mask(self, length: int) -> np.ndarray:
        """Return the mask of a stream, bool [length length]: True if position i (row) attends to j (column)."""
        mask = np.tril(np.ones((length, length), bool))
        if length > self.context:
            mask[self.context :, self.context :] = self.image_mask(length - self.context)
        return mask

    def transposed_mask(self) -> np.ndarray:
        """Return the mask of the context and all I codes, with the codes in column-major order."""
        whole, (height, width) = self.context + self.positions, self.grid
        raster = np.arange(self.positions).reshape(height, width).T.reshape(-1)
        mask = self.mask(whole)
        mask[self.context :, self.context :] = self.image_mask(self.positions)[np.ix_(raster, raster)]
        return mask


def repeat_kinds(pattern: tuple[Kind, ...], last: Kind | None, depth: int) -> tuple[Kind, ...]:
    """Return the kind of each layer: ``pattern`` repeated, with the last layer replaced by ``last`` if given.

    DALL·E 1 uses ("row", "column", "row", "row") with last "convolutional" at depth 64.
    """
    kinds = [pattern[i % len(pattern)] for i in range(depth)]
    return (*kinds[:-1], last) if last is not None else tuple(kinds)


def transpose_grid(x: Float[Array, "B N L H"], context: int, lines: tuple[int, int]) -> Float[Array, "B N L H"]:
    """Transpose the grid of image tokens in a stream (L = context + I); the context stays unchanged.

    The grid has ``lines[0]`` lines of ``lines[1]`` tokens. This converts row-major to column-major order; a call with
    ``lines`` reversed converts it back.
    """
    first, image = jax.lax.split(x, (context, x.shape[2] - context), 2)  # its gradient is a concatenation
    image = image.reshape(*x.shape[:2], *lines, x.shape[-1]).swapaxes(2, 3)
    return jnp.concatenate([first, image.reshape(*x.shape[:2], -1, x.shape[-1])], axis=2)
