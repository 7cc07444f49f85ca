"""CLIP's ResNet (arXiv 2103.00020, section 2.4): a stem of three convolutions, average pooling, attention pooling.

B batch   h w grid   C channels   N heads   H head width   E embedding
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attend import dense_attention_blnh
from dalle_jax.layers.batch_norm import BatchNorm
from dalle_jax.layers.conv_blocks import channel_axes, convolve
from dalle_jax.layers.embeddings import Embedding
from dalle_jax.layers.linear import Linear
from dalle_jax.parallel.axes import BATCH, CHANNELS, EMBED, HEAD_DIM, HEADS, HEIGHT, KERNEL, POSITIONS, WIDTH
from dalle_jax.parallel.layout import constrain

HEAD_WIDTH = 64
EXPANSION = 4


@dataclass(frozen=True)
class ResNetConfig:
    """The channels after the stem, ``width``, and the number of blocks in each of the four stages, ``layers``.

    The stages have 4, 8, 16 and 32 times ``width`` output channels. Heads of the attention pool have 64 channels.
    """

    width: int
    layers: tuple[int, int, int, int]


class NormedConv(nnx.Module):
    """A convolution without bias, followed by a batch norm."""

    def __init__(self, channels: int, features: int, *, kernel: int, stride: int = 1, dtype: DTypeLike, rngs: nnx.Rngs):
        ins, outs = channel_axes(channels, features)
        init = nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        value = init(rngs.params(), (kernel, kernel, channels, features), jnp.float32)
        self.kernel = nnx.Param(value, axes=(KERNEL, KERNEL, ins, outs))
        self.norm = BatchNorm(features, axes=(outs,), dtype=dtype)
        self.stride, self.dtype = stride, jnp.dtype(dtype)
        self.padding = ((kernel // 2, kernel // 2),) * 2

    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        """Apply the convolution, with equal padding on all sides, and the norm."""
        padding = (self.padding[0], self.padding[1])
        y = convolve(x.astype(self.dtype), self.kernel[...], stride=self.stride, padding=padding)
        return self.norm(y, train)


def shrink(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B h w C"]:
    """Average-pool squares of ``side`` x ``side`` pixels; rows and columns left over are dropped."""
    batch, height, width, channels = x.shape
    rows, columns = height // side, width // side
    x = x[:, : rows * side, : columns * side]
    return x.reshape(batch, rows, side, columns, side, channels).mean(axis=(2, 4))  # [B h w C]


class Bottleneck(nnx.Module):
    """A residual block of 1x1, 3x3 and 1x1 convolutions.

    A stride is an average pool before the last convolution and before the convolution of the shortcut.
    """

    def __init__(self, channels: int, width: int, stride: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        out = EXPANSION * width
        self.stride = stride
        self.first = NormedConv(channels, width, kernel=1, dtype=dtype, rngs=rngs)
        self.second = NormedConv(width, width, kernel=3, dtype=dtype, rngs=rngs)
        self.third = NormedConv(width, out, kernel=1, dtype=dtype, rngs=rngs)
        self.third.norm.scale[...] = jnp.zeros(out, jnp.float32)  # the block starts as its shortcut
        shortcut = stride > 1 or channels != out
        self.shortcut = NormedConv(channels, out, kernel=1, dtype=dtype, rngs=rngs) if shortcut else None

    def __call__(self, x: Float[Array, "B H W C"], train: bool) -> Float[Array, "B h w F"]:
        """Apply the block; F = 4 ``width``."""
        y = jax.nn.relu(self.first(x, train))
        y = jax.nn.relu(self.second(y, train))
        y = self.third(shrink(y, self.stride), train)
        return jax.nn.relu(y + (x if self.shortcut is None else self.shortcut(shrink(x, self.stride), train)))


class AttentionPool(nnx.Module):
    """Attention pooling: the query is the mean over the grid, the keys are this mean and all positions."""

    def __init__(self, places: int, channels: int, embed_width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        heads = channels // HEAD_WIDTH
        if channels % HEAD_WIDTH:
            raise ValueError(f"channels: expected a multiple of {HEAD_WIDTH}, the width of a head, got {channels}")
        shape = (heads, HEAD_WIDTH)
        init = nnx.initializers.normal(channels**-0.5)
        self.positions = Embedding(places + 1, channels, axis=POSITIONS, init=init, dtype=dtype, rngs=rngs)
        self.q, self.k, self.v = (
            Linear(channels, shape, axes=(EMBED, HEADS, HEAD_DIM), init=init, dtype=dtype, rngs=rngs) for _ in range(3)
        )
        self.project = Linear(shape, embed_width, axes=(HEADS, HEAD_DIM, None), init=init, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B E"]:
        """Pool the grid to embeddings."""
        x = x.reshape(x.shape[0], -1, x.shape[-1])  # [B h*w C]
        x = jnp.concatenate([x.mean(axis=1, keepdims=True), x], axis=1) + self.positions.all(x.shape[0])  # [B L C]
        q, k, v = self.q(x[:, :1]), self.k(x), self.v(x)  # [B 1 N H], [B L N H]
        return self.project(dense_attention_blnh(q, k, v)[:, 0])


class ModifiedResNet(nnx.Module):
    """The image tower. Its attention pool projects to the embedding."""

    shrinks = 32

    def __init__(self, config: ResNetConfig, image_size: int, embed_width: int, *, dtype: DTypeLike, rngs: nnx.Rngs):
        if image_size % self.shrinks:
            raise ValueError(f"image_size: expected a multiple of {self.shrinks} px, got {image_size} px")
        width = config.width
        self.stem = nnx.List(
            [
                NormedConv(3, width // 2, kernel=3, stride=2, dtype=dtype, rngs=rngs),
                NormedConv(width // 2, width // 2, kernel=3, dtype=dtype, rngs=rngs),
                NormedConv(width // 2, width, kernel=3, dtype=dtype, rngs=rngs),
            ]
        )
        self.stages: nnx.List[nnx.List[Bottleneck]] = nnx.List([])
        channels = width
        for stage, layers in enumerate(config.layers):
            blocks = []
            for layer in range(layers):
                stride = 2 if stage and not layer else 1
                blocks.append(Bottleneck(channels, width * 2**stage, stride, dtype=dtype, rngs=rngs))
                channels = EXPANSION * width * 2**stage
            self.stages.append(nnx.List(blocks))
        self.pool = AttentionPool((image_size // self.shrinks) ** 2, channels, embed_width, dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W 3"], *, train: bool = False) -> Float[Array, "B E"]:
        """Compute embeddings, not L2-normalised, of images with normalised channels.

        With ``train``, batch norms use the statistics of the batch and update their running averages.
        """
        return self.pool(self.states(x, train=train))

    def states(self, x: Float[Array, "B H W 3"], *, train: bool = False) -> Float[Array, "B h w C"]:
        """Return the output of the last stage."""
        for conv in self.stem:
            x = jax.nn.relu(conv(x, train))
        x = shrink(x, 2)
        for stage in self.stages:
            for block in stage:
                x = constrain(block(x, train), BATCH, HEIGHT, WIDTH, CHANNELS)
        return x
