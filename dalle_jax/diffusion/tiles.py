"""Denoising in overlapping tiles, so that an image of any size fits into memory (MultiDiffusion, arXiv 2302.08113).

In every step the network predicts each tile, and the predictions are blended. All tiles so belong to one sample of
the whole image. Letters: B batch, H W image, C channels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput

DROPPED = 0.25
"""The share of an overlap next to a tile's edge that is not used."""

TileDenoiser: TypeAlias = Callable[[Array, NoiseLevel, Array], ModelOutput]
"""A network from a noised tile, its level and the same part of the conditioning image to a prediction of the tile."""


@dataclass(frozen=True)
class Tiles:
    """Square tiles of ``side`` pixels, which overlap by at least ``overlap``.

    A quarter of an overlap at each side is not used, the half between fades from one tile to the next. The tiled
    prediction therefore equals the whole one for a network that sees at most ``overlap`` / 4 pixels around a pixel.
    """

    side: int
    overlap: int

    def __post_init__(self) -> None:
        if self.overlap < 4 or self.overlap % 4 or self.side < 2 * self.overlap:
            raise ValueError(
                "overlap, side: expected a positive multiple of 4, and at least twice it, got "
                f"{self.overlap} and {self.side}"
            )

    def starts(self, size: int) -> list[int]:
        """Return the first pixel of each tile along an axis; the last tile ends at the image's edge."""
        if size <= self.side:
            return [0]
        return [*range(0, size - self.side, self.side - self.overlap), size - self.side]

    def weights(self, size: int, start: int) -> Float[np.ndarray, " side"]:
        """Return the weight of each pixel of a tile along an axis: 1, and a fade at edges inside the image."""
        side, dropped = min(self.side, size), self.overlap * DROPPED
        place = np.arange(side) + 0.5
        weight, length = np.ones(side), self.overlap - 2 * dropped
        if start > 0:
            weight = np.minimum(weight, (place - dropped) / length)
        if start + side < size:
            weight = np.minimum(weight, (side - place - dropped) / length)
        return weight.clip(0, 1)


def tiled(denoise: TileDenoiser, image: Float[Array, "B H W c"], tiles: Tiles) -> Denoiser:
    """Return a denoiser of the whole image that calls ``denoise`` on one tile after another.

    ``image`` holds the conditions, of which each tile gets its part. The memory of a forward is that of one tile.
    """
    height, width = image.shape[1:3]
    sides = min(tiles.side, height), min(tiles.side, width)
    corners = [(top, left) for top in tiles.starts(height) for left in tiles.starts(width)]
    weights = np.stack([np.outer(tiles.weights(height, top), tiles.weights(width, left)) for top, left in corners])
    total = np.zeros((height, width))
    for (top, left), weight in zip(corners, weights, strict=True):
        total[top : top + sides[0], left : left + sides[1]] += weight
    share = np.stack([
        weight / total[top : top + sides[0], left : left + sides[1]]
        for (top, left), weight in zip(corners, weights, strict=True)
    ])  # fmt: skip

    def whole(x: Array, level: NoiseLevel) -> ModelOutput:
        def cut(array: Array, corner: Array) -> Array:
            sizes = (array.shape[0], *sides, array.shape[-1])
            return jax.lax.dynamic_slice(array, (0, corner[0], corner[1], 0), sizes)

        def add(sums: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
            corner, weight = one
            output = denoise(cut(x, corner), level, cut(image, corner))
            parts = [output.prediction] + ([] if output.variance is None else [output.variance])
            weighted = weight[..., None] * jnp.concatenate(parts, axis=-1).astype(jnp.float32)
            at = (0, corner[0], corner[1], 0)
            sizes = (x.shape[0], *sides, sums.shape[-1])
            return jax.lax.dynamic_update_slice(sums, jax.lax.dynamic_slice(sums, at, sizes) + weighted, at), None

        corner = jnp.zeros(2, int)
        outputs = 1 if jax.eval_shape(denoise, cut(x, corner), level, cut(image, corner)).variance is None else 2
        sums = jnp.zeros((*x.shape[:-1], outputs * x.shape[-1]))
        scanned = (jnp.asarray(corners), jnp.asarray(share, jnp.float32))
        summed = jax.lax.scan(add, sums, scanned)[0]
        if outputs == 1:
            return ModelOutput(summed)
        return ModelOutput(*jnp.split(summed, 2, axis=-1))

    return whole
