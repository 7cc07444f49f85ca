"""LPIPS: a perceptual distance between images in VGG-16's features (Zhang et al. 2018, arXiv 1801.03924).

Five layers of features are L2-normalised at each position. The distance is their squared difference, weighted by
channel, averaged over positions and summed over layers. The published weights are imported and never trained here.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.conv_blocks import Conv, max_pool
from dalle_jax.parallel.axes import CHANNELS

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
"""The mean (``SHIFT``) and standard deviation of ImageNet's RGB channels, for values in -1..1."""


@dataclass(frozen=True)
class LpipsConfig:
    """Channels (``widths``) and numbers of convolutions (``depths``) of VGG-16's five groups."""

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)

    def build(self, rngs: nnx.Rngs) -> "Lpips":
        """Create the network with newly initialised weights."""
        return Lpips(self, rngs=rngs)


class Lpips(nnx.Module):
    """The LPIPS distance. Its weights are frozen and come from ``import lpips``."""

    def __init__(self, config: LpipsConfig, *, rngs: nnx.Rngs):
        groups: list[nnx.List] = []
        inputs = 3
        for width, depth in zip(config.widths, config.depths, strict=True):
            sizes = [inputs] + [width] * (depth - 1)
            groups.append(nnx.List(Conv(size, width, kernel=3, rngs=rngs) for size in sizes))
            inputs = width
        self.groups = nnx.List(groups)
        self.weights = nnx.List(nnx.Param(jnp.ones(width) / width, axes=(CHANNELS,)) for width in config.widths)

    def features(self, values: Float[Array, "B H W 3"]) -> Iterator[Float[Array, "B h w C"]]:
        """Yield the output of each group's last ReLU, for images with values in -1..1."""
        x = (values - SHIFT) / SCALE
        for index, group in enumerate(self.groups):
            x = max_pool(x) if index else x
            for conv in group:
                x = jax.nn.relu(conv(x))
            yield x

    def __call__(self, one: Float[Array, "B H W 3"], other: Float[Array, "B H W 3"]) -> Float[Array, " B"]:
        """Compute the distance of each pair of images, with values in -1..1."""
        total = jnp.zeros(one.shape[0])
        for weight, x, y in zip(self.weights, self.features(one), self.features(other), strict=True):
            difference = l2_normalise(x) - l2_normalise(y)  # [B h w C]
            total = total + (difference * difference * weight[...]).sum(-1).mean(axis=(1, 2))
        return total


def l2_normalise(x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """L2-normalise each position's vector. The norm is kept above 0, where its gradient is infinite."""
    return x / (jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-20)) + 1e-10)
