"""The PatchGAN discriminator of VQGAN, which classifies patches as real (Isola et al. 2017, arXiv 1611.07004).

4x4 convolutions with leaky ReLU: ``layers`` of stride 2, one of stride 1, and one to a single channel. All but the
first and the last have no bias and are followed by batch normalisation. The discriminator is only used in training. So
it always takes the statistics of the batch, over all devices, and keeps no running averages.
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.conv_blocks import Conv
from dalle_jax.layers.norms import NormParam
from dalle_jax.parallel.axes import BATCH, CHANNELS, HEIGHT, WIDTH
from dalle_jax.parallel.layout import constrain


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Sizes of the network. Each of ``layers`` halves the size and doubles the channels, up to 8 ``width``."""

    width: int = 64
    layers: int = 3
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.layers < 1:
            raise ValueError(f"layers: expected at least 1, got {self.layers}")

    def build(self, rngs: nnx.Rngs) -> "Discriminator":
        """Create the network with newly initialised weights."""
        return Discriminator(self, rngs=rngs)


class DiscriminatorBatchNorm(nnx.Module):
    """Batch normalisation with the statistics of the batch alone, in float32."""

    def __init__(self, channels: int, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.dtype = jnp.dtype(dtype)
        self.scale = NormParam(1.0 + 0.02 * jax.random.normal(rngs.params(), (channels,)), axes=(CHANNELS,))
        self.bias = NormParam(jnp.zeros(channels, jnp.float32), axes=(CHANNELS,))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Normalise each channel over the batch and all positions."""
        x = x.astype(jnp.float32)
        centred = x - x.mean(axis=(0, 1, 2))
        y = centred * jax.lax.rsqrt((centred * centred).mean(axis=(0, 1, 2)) + 1e-5)
        return (y * self.scale[...] + self.bias[...]).astype(self.dtype)


class Discriminator(nnx.Module):
    """The discriminator from images [B H W 3] to one logit per patch, high for real images."""

    def __init__(self, config: DiscriminatorConfig, *, rngs: nnx.Rngs):
        widths = [config.width * min(2**layer, 8) for layer in range(config.layers + 1)]
        strides = [2] * config.layers + [1]
        sizes = list(zip([3, *widths], [*widths, 1], [*strides, 1], strict=True))
        init = nnx.initializers.normal(0.02)
        self.convs = nnx.List(
            Conv(
                inputs, features, kernel=4, stride=stride, padding=1, bias=index in (0, len(widths)),
                dtype=config.dtype, init=init, rngs=rngs,
            )
            for index, (inputs, features, stride) in enumerate(sizes)
        )  # fmt: skip
        self.norms = nnx.List(DiscriminatorBatchNorm(width, config.dtype, rngs=rngs) for width in widths[1:])

    def __call__(self, values: Float[Array, "B H W C"]) -> Float[Array, "B h w 1"]:
        """Compute the logits of images with values in the tokenizer's range."""
        x = jax.nn.leaky_relu(self.convs[0](values), 0.2)
        for conv, norm in zip(self.convs[1:-1], self.norms, strict=True):
            x = jax.nn.leaky_relu(norm(conv(constrain(x, BATCH, HEIGHT, WIDTH, CHANNELS))), 0.2)
        return self.convs[-1](x).astype(jnp.float32)
