"""VQGAN: images to a grid of codes and back (Esser et al. 2021, arXiv 2012.09841), as taming-transformers has it.

Both sides are residual blocks of GroupNorm, swish and 3x3 convolutions, with single-head attention at some levels and
in the middle. The encoder halves with a convolution padded on the right and below only; the decoder doubles the nearest
neighbours and convolves. Between them lie a 1x1 convolution into the space of the codes, the nearest code, and a 1x1
convolution out of it. LlamaGen's tokenizer (arXiv 2406.06525) is the same network with attention at the last level and
codes of few dimensions on the unit sphere (``distance="cosine"``).

    B batch   H W pixels   h w grid   C channels   c code width   K codebook
"""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.layers.conv_blocks import Conv, channel_axes, upsample
from dalle_jax.layers.embeddings import EmbeddingParam
from dalle_jax.layers.norms import GroupNorm
from dalle_jax.layers.quantize import argmin_and_min, squared_distances, straight_through
from dalle_jax.layers.remat import Remat, run_block
from dalle_jax.parallel.axes import BATCH, CHANNELS, HEIGHT, WIDTH
from dalle_jax.parallel.layout import constrain

EPSILON = 1e-6
"""Of every norm: ten times smaller than torch's default, as published."""


@dataclass(frozen=True)
class VqganConfig:
    """``width`` times each of ``multipliers`` are the widths of the levels, from full size down by halves.

    ``blocks`` are those of a level of the encoder; the decoder has one more. ``attention_levels`` count from 0, the
    full size: the published f16 has (4,), its 16x16. ``latent_width`` is what the encoder gives, ``code_width`` what
    is quantised. ``pixel_range`` is what the network sees and draws: "-1..1" as published, "0..1" in DALL·E mini.
    ``remat`` is what a block keeps for its gradient: layers/remat.py.
    """

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention_levels: tuple[int, ...]
    latent_width: int
    code_width: int
    codebook_size: int
    channels: int = 3
    distance: Literal["euclidean", "cosine"] = "euclidean"
    pixel_range: Literal["-1..1", "0..1"] = "-1..1"
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    @property
    def downsample(self) -> int:
        """The side in pixels of the square that one code stands for."""
        return 2 ** (len(self.multipliers) - 1)

    def build(self, rngs: nnx.Rngs) -> "Vqgan":
        """Create the network with newly initialised weights."""
        return Vqgan(self, rngs=rngs)


class VqganQuantized(NamedTuple):
    """``vectors`` are the codes' in value and ``inputs`` in gradient; ``nearest`` move the codebook.

    ``inputs`` are what was compared (of length 1 for the cosine distance); ``distances`` are squared.
    """

    vectors: Float[Array, "B h w c"]
    inputs: Float[Array, "B h w c"]
    nearest: Float[Array, "B h w c"]
    codes: Int[Array, "B h w"]
    distances: Float[Array, "n K"]


def conv(inputs: int, features: int, kernel: int, dtype: Any, rngs: nnx.Rngs, stride: int = 1) -> Conv:
    """A convolution that starts as torch's do: uniform, variance 1 / (3 fan-in)."""
    init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(inputs, features, kernel=kernel, stride=stride, dtype=dtype, init=init, rngs=rngs)


class VqganResBlock(nnx.Module):
    """``skip(x) + conv(swish(norm(conv(swish(norm(x))))))``; the skip is a 1x1 convolution where the width changes."""

    def __init__(self, inputs: int, features: int, dtype: Any, *, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(inputs, epsilon=EPSILON, dtype=dtype)
        self.conv1 = conv(inputs, features, 3, dtype, rngs)
        self.norm2 = GroupNorm(features, epsilon=EPSILON, dtype=dtype)
        self.conv2 = conv(features, features, 3, dtype, rngs)
        self.skip = None if inputs == features else conv(inputs, features, 1, dtype, rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        """Size stays."""
        y = self.conv1(jax.nn.swish(self.norm1(x)))
        y = self.conv2(jax.nn.swish(self.norm2(y)))
        return (x if self.skip is None else self.skip(x)) + y


class VqganAttentionBlock(nnx.Module):
    """``x + out(attention(norm(x)))`` over all positions: one head, scores over sqrt(C), softmax in float32."""

    def __init__(self, channels: int, dtype: Any, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, epsilon=EPSILON, dtype=dtype)
        self.q, self.k, self.v, self.out = (conv(channels, channels, 1, dtype, rngs) for _ in range(4))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Size and channels stay."""
        batch, height, width, channels = x.shape
        y = self.norm(x)
        q, k, v = (one(y).reshape(batch, height * width, channels) for one in (self.q, self.k, self.v))  # [B I C]
        scores = jnp.einsum("bic,bjc->bij", q, k).astype(jnp.float32) * channels**-0.5
        mixed = jnp.einsum("bij,bjc->bic", jax.nn.softmax(scores, axis=-1).astype(v.dtype), v)
        return x + self.out(mixed.reshape(x.shape))


class VqganLevel(nnx.Module):
    """The residual blocks of one size, each followed by attention where there is any, and the way to the next size."""

    def __init__(
        self, inputs: int, features: int, blocks: int, attends: bool, then: Literal["halve", "double"] | None,
        config: VqganConfig, *, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.then, self.remat = then, config.remat
        self.blocks = nnx.List(
            VqganResBlock(inputs if index == 0 else features, features, config.dtype, rngs=rngs)
            for index in range(blocks)
        )
        self.attention = nnx.List(
            VqganAttentionBlock(features, config.dtype, rngs=rngs) for _ in range(blocks if attends else 0)
        )
        stride = 2 if then == "halve" else 1
        self.resize = None if then is None else conv(features, features, 3, config.dtype, rngs, stride=stride)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """At the next size, or the same for the last level."""
        for index, block in enumerate(self.blocks):
            x = run_block(block, constrain(x, BATCH, HEIGHT, WIDTH, CHANNELS), self.remat)
            if self.attention:
                x = run_block(self.attention[index], x, self.remat)
        if self.resize is None:
            return x
        # An even size under a kernel of 3 and a stride of 2 is padded behind only by "SAME", as published.
        return self.resize(upsample(x) if self.then == "double" else x)


class VqganMiddle(nnx.Module):
    """Two residual blocks around attention."""

    def __init__(self, channels: int, config: VqganConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.block1 = VqganResBlock(channels, channels, config.dtype, rngs=rngs)
        self.attention = VqganAttentionBlock(channels, config.dtype, rngs=rngs)
        self.block2 = VqganResBlock(channels, channels, config.dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Size and channels stay."""
        for block in (self.block1, self.attention, self.block2):
            x = run_block(block, x, self.remat)
        return x


class VqganEncoder(nnx.Module):
    """[B H W 3] to [B h w latent_width]."""

    def __init__(self, config: VqganConfig, *, rngs: nnx.Rngs):
        widths = [config.width * one for one in config.multipliers]
        last = len(widths) - 1
        self.input = conv(config.channels, config.width, 3, config.dtype, rngs)
        self.levels = nnx.List(
            VqganLevel(
                inputs, features, config.blocks, level in config.attention_levels, None if level == last else "halve",
                config, rngs=rngs,
            )
            for level, (inputs, features) in enumerate(zip([config.width, *widths], widths, strict=False))
        )  # fmt: skip
        self.middle = VqganMiddle(widths[-1], config, rngs=rngs)
        self.norm = GroupNorm(widths[-1], epsilon=EPSILON, dtype=config.dtype)
        self.output = conv(widths[-1], config.latent_width, 3, config.dtype, rngs)

    def __call__(self, values: Float[Array, "B H W C"]) -> Float[Array, "B h w z"]:
        """Values in the network's range."""
        x = self.input(values)
        for level in self.levels:
            x = level(x)
        return self.output(jax.nn.swish(self.norm(self.middle(x))))


class VqganDecoder(nnx.Module):
    """[B h w latent_width] to [B H W 3]; ``levels`` are in the order in which they run, the smallest first."""

    def __init__(self, config: VqganConfig, *, rngs: nnx.Rngs):
        widths = [config.width * one for one in reversed(config.multipliers)]
        order = list(reversed(range(len(widths))))
        self.input = conv(config.latent_width, widths[0], 3, config.dtype, rngs)
        self.middle = VqganMiddle(widths[0], config, rngs=rngs)
        self.levels = nnx.List(
            VqganLevel(
                inputs, features, config.blocks + 1, level in config.attention_levels, "double" if level else None,
                config, rngs=rngs,
            )
            for level, inputs, features in zip(order, [widths[0], *widths], widths, strict=False)
        )  # fmt: skip
        self.norm = GroupNorm(widths[-1], epsilon=EPSILON, dtype=config.dtype)
        self.output = conv(widths[-1], config.channels, 3, config.dtype, rngs)

    def before_last(self, x: Float[Array, "B h w z"]) -> Float[Array, "B H W C"]:
        """All but the last convolution, ``output``."""
        x = self.middle(self.input(x))
        for level in self.levels:
            x = level(x)
        return jax.nn.swish(self.norm(x))

    def __call__(self, x: Float[Array, "B h w z"]) -> Float[Array, "B H W 3"]:
        """Values in the network's range, not clipped."""
        return self.output(self.before_last(x)).astype(jnp.float32)


class Vqgan(nnx.Module):
    """An ImageTokenizer that learns: see models/image_tokenizer.py."""

    def __init__(self, config: VqganConfig, *, rngs: nnx.Rngs):
        beyond = [level for level in config.attention_levels if not 0 <= level < len(config.multipliers)]
        if beyond or not config.multipliers or config.width % 32:
            raise ValueError(
                f"a VQGAN has a width that is a multiple of 32 and attention_levels from 0 to "
                f"{len(config.multipliers) - 1}, got width={config.width}, attention_levels={config.attention_levels}"
            )
        self.config = config
        self.encoder = VqganEncoder(config, rngs=rngs)
        self.into_codes = conv(config.latent_width, config.code_width, 1, config.dtype, rngs)
        size = config.codebook_size
        table = jax.random.uniform(rngs.params(), (size, config.code_width), minval=-1 / size, maxval=1 / size)
        self.codebook = EmbeddingParam(
            unit(table) if config.distance == "cosine" else table, axes=channel_axes(*table.shape)
        )
        self.out_of_codes = conv(config.code_width, config.latent_width, 1, config.dtype, rngs)
        self.decoder = VqganDecoder(config, rngs=rngs)

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.config.codebook_size

    @property
    def downsample(self) -> int:
        """The side of a code's square of pixels."""
        return self.config.downsample

    @property
    def code_vectors(self) -> Float[Array, "K c"]:
        """The codebook, of unit length for the cosine distance."""
        table = self.codebook[...]
        return unit(table) if self.config.distance == "cosine" else table

    def latents(self, values: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Values in the network's range to what is compared with the codes, in float32."""
        x = self.into_codes(self.encoder(values)).astype(jnp.float32)
        return unit(x) if self.config.distance == "cosine" else x

    def quantize(self, x: Float[Array, "B h w c"]) -> VqganQuantized:
        """The nearest codes of ``latents``."""
        table = self.code_vectors
        distances = squared_distances(x.reshape(-1, x.shape[-1]), table)  # [n K]
        codes = argmin_and_min(distances)[0].reshape(x.shape[:-1])
        nearest = jnp.take(table, codes, axis=0)  # [B h w c]
        return VqganQuantized(straight_through(x, nearest), x, nearest, codes, distances)

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """The codes of images."""
        return self.quantize(self.latents(to_range(self.config, pixels))).codes

    def decode(self, codes: Int[Array, "B h w"]) -> Float[Array, "B H W 3"]:
        """Images for codes, clipped to [0, 1]."""
        vectors = jnp.take(self.code_vectors, codes, axis=0, mode="clip")
        return from_range(self.config, self.decoder(self.out_of_codes(vectors)))


def unit(x: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """Vectors of length 1 (of 1e-12 and less, longer ones)."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


def to_range(config: VqganConfig, pixels: Float[Array, "..."]) -> Float[Array, "..."]:
    """[0, 1] to what the network sees."""
    return 2 * pixels - 1 if config.pixel_range == "-1..1" else pixels


def from_range(config: VqganConfig, values: Float[Array, "..."]) -> Float[Array, "..."]:
    """What the network draws to [0, 1], clipped."""
    return ((values + 1) / 2 if config.pixel_range == "-1..1" else values).clip(0, 1)
