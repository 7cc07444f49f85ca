"""EfficientNet-Lite (Tan and Le 2019, arXiv 1905.11946): EfficientNet without squeeze-and-excitation, with ReLU6.

The published weights are imported and never trained here. Metrics see images with the pooled features. The network is
small, so every device holds all of it.

B batch   H W pixels   h w grid   C channels   D features   c classes
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.batch_norm import BatchNorm
from dalle_jax.layers.conv_blocks import convolve, depthwise
from dalle_jax.layers.linear import Linear
from dalle_jax.parallel.axes import BATCH, CHANNELS, HEIGHT, WIDTH
from dalle_jax.parallel.layout import constrain

EPSILON = 1e-3
SHIFT, SCALE = 127.0, 128.0
"""Pixels are (x - 127) / 128 for every channel of the Lite models."""


@dataclass(frozen=True)
class EfficientNetLiteConfig:
    """Sizes of a network; the defaults are those of Lite0.

    Stage ``i`` has ``depths[i]`` blocks with ``widths[i]`` output channels and depthwise kernels of ``kernels[i]``.
    Its first block has stride ``strides[i]``. Blocks expand their channels ``expansions[i]`` times.
    """

    image_size: int = 224
    stem: int = 32
    widths: tuple[int, ...] = (16, 24, 40, 80, 112, 192, 320)
    depths: tuple[int, ...] = (1, 2, 2, 3, 3, 4, 1)
    kernels: tuple[int, ...] = (3, 3, 5, 3, 5, 5, 3)
    strides: tuple[int, ...] = (1, 2, 2, 2, 1, 2, 1)
    expansions: tuple[int, ...] = (1, 6, 6, 6, 6, 6, 6)
    features: int = 1280
    classes: int = 1000

    def build(self, rngs: nnx.Rngs) -> "EfficientNetLite":
        """Create the network with newly initialised weights."""
        return EfficientNetLite(self, rngs=rngs)


def relu6(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Clip activations to [0, 6]."""
    return jnp.clip(x, 0.0, 6.0)


class ScaledConv(nnx.Module):
    """A convolution without bias and with "SAME" padding, followed by a batch norm with fixed statistics."""

    def __init__(
        self, channels: int, features: int, *, kernel: int, stride: int = 1, by_channel: bool = False, rngs: nnx.Rngs
    ):
        shape = (kernel, kernel, 1 if by_channel else channels, features)
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32), axes=(None,) * 4)
        self.norm = BatchNorm(features, axes=(None,), epsilon=EPSILON)
        self.stride, self.by_channel = stride, by_channel

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Apply the convolution, of each channel alone with ``by_channel``, and the norm."""
        apply = depthwise if self.by_channel else convolve
        return self.norm(apply(x, self.kernel[...], stride=self.stride), False)


class InvertedBottleneck(nnx.Module):
    """An expansion, a depthwise convolution and a projection; a residual block if the shapes agree."""

    def __init__(self, channels: int, width: int, *, expansion: int, kernel: int, stride: int, rngs: nnx.Rngs):
        inner = channels * expansion
        self.expand = None if expansion == 1 else ScaledConv(channels, inner, kernel=1, rngs=rngs)
        self.spatial = ScaledConv(inner, inner, kernel=kernel, stride=stride, by_channel=True, rngs=rngs)
        self.project = ScaledConv(inner, width, kernel=1, rngs=rngs)
        self.residual = stride == 1 and channels == width

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Apply the block."""
        y = x if self.expand is None else relu6(self.expand(x))
        y = self.project(relu6(self.spatial(y)))
        return x + y if self.residual else y


class EfficientNetLite(nnx.Module):
    """The classifier, whose pooled features are the input of its last layer."""

    def __init__(self, config: EfficientNetLiteConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.stem = ScaledConv(3, config.stem, kernel=3, stride=2, rngs=rngs)
        blocks, channels = [], config.stem
        stages = zip(config.widths, config.depths, config.kernels, config.strides, config.expansions, strict=True)
        for width, depth, kernel, stride, expansion in stages:
            for index in range(depth):
                step = 1 if index else stride
                blocks.append(
                    InvertedBottleneck(channels, width, expansion=expansion, kernel=kernel, stride=step, rngs=rngs)
                )
                channels = width
        self.blocks = nnx.List(blocks)
        self.head = ScaledConv(channels, config.features, kernel=1, rngs=rngs)
        self.classify = Linear(config.features, config.classes, axes=(None, None), rngs=rngs)

    def features(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B D"]:
        """Return the pooled features of images with values in 0..255."""
        x = relu6(self.stem((pixels - SHIFT) / SCALE))
        for block in self.blocks:
            x = constrain(block(x), BATCH, HEIGHT, WIDTH, CHANNELS)
        return relu6(self.head(x)).mean(axis=(1, 2))

    def probabilities(self, features: Float[Array, "B D"]) -> Float[Array, "B c"]:
        """Return the probability of each class of ImageNet from the pooled features."""
        return jax.nn.softmax(self.classify(features), axis=-1)
