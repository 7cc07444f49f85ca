"""LPIPS: a perceptual distance between images in features of VGG-16 or AlexNet (Zhang et al. 2018, arXiv 1801.03924).

Five layers of features are L2-normalised at each position. The distance is their squared difference, weighted by
channel, averaged over positions and summed over layers. The published weights are imported and never trained here.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.conv_blocks import Conv, max_pool, windows
from dalle_jax.parallel.axes import CHANNELS

SHIFT = np.array([-0.030, -0.088, -0.188], np.float32)
SCALE = np.array([0.458, 0.448, 0.450], np.float32)
"""The mean (``SHIFT``) and standard deviation of ImageNet's RGB channels, for values in -1..1."""


ALEXNET_KERNELS = (11, 5, 3, 3, 3)
ALEXNET_STRIDE, ALEXNET_PADDING = 4, 2
"""Stride and padding of AlexNet's first convolution."""
ALEXNET_POOLED = (1, 2)
"""Groups of AlexNet that begin with a pooling."""
LEAST_SIDE = {"vgg16": 16, "alexnet": 31}
"""Smallest side in pixels of an image whose last group has a position."""


@dataclass(frozen=True)
class LpipsConfig:
    """Channels (``widths``) and numbers of convolutions (``depths``) of the five groups; the defaults are VGG-16's.

    AlexNet has groups of one convolution.
    """

    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)
    backbone: Literal["vgg16", "alexnet"] = "vgg16"

    def build(self, rngs: nnx.Rngs) -> "Lpips":
        """Create the network with newly initialised weights."""
        return Lpips(self, rngs=rngs)


class Lpips(nnx.Module):
    """The LPIPS distance. Its weights are frozen and come from ``import lpips``."""

    def __init__(self, config: LpipsConfig, *, rngs: nnx.Rngs):
        self.config = config
        groups: list[nnx.List] = []
        inputs = 3
        for index, (width, depth) in enumerate(zip(config.widths, config.depths, strict=True)):
            sizes = [inputs] + [width] * (depth - 1)
            groups.append(nnx.List(_conv(config, index, size, width, rngs) for size in sizes))
            inputs = width
        self.groups = nnx.List(groups)
        self.weights = nnx.List(nnx.Param(jnp.ones(width) / width, axes=(CHANNELS,)) for width in config.widths)

    def features(self, values: Float[Array, "B H W 3"]) -> Iterator[Float[Array, "B h w C"]]:
        """Yield the output of each group's last ReLU, for images with values in -1..1."""
        x = (values - SHIFT) / SCALE
        for index, group in enumerate(self.groups):
            x = self._pool(x, index)
            for conv in group:
                x = jax.nn.relu(conv(x))
            yield x

    def _pool(self, x: Float[Array, "B H W C"], index: int) -> Float[Array, "B h w C"]:
        """Pool before group ``index``: VGG-16 squares of 2 x 2, AlexNet overlapping windows of 3 x 3."""
        if self.config.backbone == "alexnet":
            return windows(x, jnp.maximum, 2) if index in ALEXNET_POOLED else x
        return max_pool(x) if index else x

    def __call__(self, one: Float[Array, "B H W 3"], other: Float[Array, "B H W 3"]) -> Float[Array, " B"]:
        """Compute the distance of each pair of images, with values in -1..1."""
        total = jnp.zeros(one.shape[0])
        for weight, x, y in zip(self.weights, self.features(one), self.features(other), strict=True):
            difference = l2_normalise(x) - l2_normalise(y)  # [B h w C]
            total = total + (difference * difference * weight[...]).sum(-1).mean(axis=(1, 2))
        return total


def _conv(config: LpipsConfig, index: int, inputs: int, width: int, rngs: nnx.Rngs) -> Conv:
    """Create a convolution of group ``index``."""
    if config.backbone == "vgg16":
        return Conv(inputs, width, kernel=3, rngs=rngs)
    kernel = ALEXNET_KERNELS[index]
    if index == 0:
        return Conv(inputs, width, kernel=kernel, stride=ALEXNET_STRIDE, padding=ALEXNET_PADDING, rngs=rngs)
    return Conv(inputs, width, kernel=kernel, rngs=rngs)


def l2_normalise(x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
    """L2-normalise each position's vector. The norm is kept above 0, where its gradient is infinite."""
    return x / (jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-20)) + 1e-10)
