"""VQGAN: a discrete autoencoder of images (Esser et al. 2021, arXiv 2012.09841), as in taming-transformers.

Encoder and decoder are residual blocks of GroupNorm, swish and 3x3 convolutions, with single-head attention at some
levels and in the middle. The encoder downsamples with a strided convolution that is padded at the right and bottom
only. The decoder doubles the size by repeating values (nearest neighbour), then convolves. A 1x1 convolution maps
latents to the code space, where the nearest code replaces them, and another maps back. LlamaGen's tokenizer (arXiv
2406.06525) is the same network with attention at the last level and code vectors of few dimensions on the unit sphere
(``distance="cosine"``). taming's GumbelVQ has a 1x1 convolution to the logits of the codes instead of distances
(``quantizer="gumbel"``).

    B batch   H W pixels   h w grid   C channels   c code width   K codebook
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.layers.attend import dense_attention_blnh
from dalle_jax.layers.conv_blocks import Conv, channel_axes, upsample
from dalle_jax.layers.embeddings import EmbeddingParam
from dalle_jax.layers.norms import GroupNorm
from dalle_jax.layers.quantize import argmin_and_min, squared_distances, straight_through
from dalle_jax.layers.remat import Remat, run_block
from dalle_jax.parallel.axes import BATCH, CHANNELS, HEIGHT, WIDTH
from dalle_jax.parallel.layout import constrain

EPSILON = 1e-6
"""The epsilon of all norms, as published: a tenth of PyTorch's default."""


@dataclass(frozen=True)
class VqganConfig:
    """Sizes and options of the network.

    Level i has ``width * multipliers[i]`` channels; level 0 is full size and each level halves the size. The encoder
    has ``blocks`` residual blocks per level, the decoder one more. ``attention_levels`` are the levels with attention;
    the published f16 model has (4,), of size 16x16. ``latent_width`` is the encoder's output width and ``code_width``
    the width of a code vector. ``pixel_range`` is the value range of inputs and outputs: "-1..1" as published, "0..1"
    in DALL·E mini. With ``quantizer`` "gumbel" the code is the most likely one by the network's logits; such a
    network can be imported, not trained. ``remat`` chooses the activations that a block stores (layers/remat.py).
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
    quantizer: Literal["nearest", "gumbel"] = "nearest"
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
    """Quantised latents.

    ``inputs`` are the latents (unit vectors for the cosine distance), ``nearest`` the code vectors, through which the
    codebook gets its gradient. ``vectors`` is the straight-through estimate: value of ``nearest``, gradient of
    ``inputs``. ``distances`` are squared, for all n = B h w latents and K codes.
    """

    vectors: Float[Array, "B h w c"]
    inputs: Float[Array, "B h w c"]
    nearest: Float[Array, "B h w c"]
    codes: Int[Array, "B h w"]
    distances: Float[Array, "n K"]


def conv(inputs: int, features: int, kernel: int, dtype: DTypeLike, rngs: nnx.Rngs, stride: int = 1) -> Conv:
    """Create a convolution with PyTorch's initial values: uniform, variance 1 / (3 fan-in)."""
    init = nnx.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
    return Conv(inputs, features, kernel=kernel, stride=stride, dtype=dtype, init=init, rngs=rngs)


class VqganResBlock(nnx.Module):
    """A residual block ``skip(x) + conv(swish(norm(conv(swish(norm(x))))))``.

    The skip is a 1x1 convolution if the width changes, else the identity.
    """

    def __init__(self, inputs: int, features: int, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.norm1 = GroupNorm(inputs, epsilon=EPSILON, dtype=dtype)
        self.conv1 = conv(inputs, features, 3, dtype, rngs)
        self.norm2 = GroupNorm(features, epsilon=EPSILON, dtype=dtype)
        self.conv2 = conv(features, features, 3, dtype, rngs)
        self.skip = None if inputs == features else conv(inputs, features, 1, dtype, rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        """Apply the block at the same height and width."""
        y = self.conv1(jax.nn.swish(self.norm1(x)))
        y = self.conv2(jax.nn.swish(self.norm2(y)))
        return (x if self.skip is None else self.skip(x)) + y


class VqganAttentionBlock(nnx.Module):
    """Single-head attention over all positions: ``x + out(attention(norm(x)))``."""

    def __init__(self, channels: int, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.norm = GroupNorm(channels, epsilon=EPSILON, dtype=dtype)
        self.q, self.k, self.v, self.out = (conv(channels, channels, 1, dtype, rngs) for _ in range(4))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Apply the block, which keeps the shape."""
        batch, height, width, channels = x.shape
        y = self.norm(x)
        q, k, v = (one(y).reshape(batch, height * width, 1, channels) for one in (self.q, self.k, self.v))  # [B I 1 C]
        return x + self.out(dense_attention_blnh(q, k, v).reshape(x.shape))


class VqganLevel(nnx.Module):
    """The residual blocks of one size, each followed by attention if the level has it, and the resize after them."""

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
        """Apply the level. The output has the size of the next level; the last level does not change the size."""
        for index, block in enumerate(self.blocks):
            x = run_block(block, constrain(x, BATCH, HEIGHT, WIDTH, CHANNELS), self.remat)
            if self.attention:
                x = run_block(self.attention[index], x, self.remat)
        if self.resize is None:
            return x
        # For kernel 3, stride 2 and an even size, "SAME" pads only at the right and bottom, as published.
        return self.resize(upsample(x) if self.then == "double" else x)


class VqganMiddle(nnx.Module):
    """A residual block, attention and a residual block at the smallest size."""

    def __init__(self, channels: int, config: VqganConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.block1 = VqganResBlock(channels, channels, config.dtype, rngs=rngs)
        self.attention = VqganAttentionBlock(channels, config.dtype, rngs=rngs)
        self.block2 = VqganResBlock(channels, channels, config.dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B h w C"]:
        """Apply the three blocks, which keep the shape."""
        for block in (self.block1, self.attention, self.block2):
            x = run_block(block, x, self.remat)
        return x


class VqganEncoder(nnx.Module):
    """The encoder from images [B H W 3] to latents [B h w latent_width]."""

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
        """Encode images with values in the network's range."""
        x = self.input(values)
        for level in self.levels:
            x = level(x)
        return self.output(jax.nn.swish(self.norm(self.middle(x))))


class VqganDecoder(nnx.Module):
    """The decoder from latents [B h w latent_width] to images [B H W 3]; ``levels`` starts with the smallest."""

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
        """Return the input of the last convolution, ``output``."""
        x = self.middle(self.input(x))
        for level in self.levels:
            x = level(x)
        return jax.nn.swish(self.norm(x))

    def __call__(self, x: Float[Array, "B h w z"]) -> Float[Array, "B H W 3"]:
        """Decode latents to images in the network's range, not clipped."""
        return self.output(self.before_last(x)).astype(jnp.float32)


class Vqgan(nnx.Module):
    """The VQGAN without its discriminator. Implements ``ImageTokenizer``."""

    def __init__(self, config: VqganConfig, *, rngs: nnx.Rngs):
        beyond = [level for level in config.attention_levels if not 0 <= level < len(config.multipliers)]
        if beyond or not config.multipliers or config.width % 32:
            raise ValueError(
                f"VQGAN: expected width a multiple of 32, multipliers not empty and attention_levels from 0 to "
                f"{len(config.multipliers) - 1}, got width {config.width}, multipliers {config.multipliers} and "
                f"attention_levels {config.attention_levels}"
            )
        if config.quantizer == "gumbel" and config.distance != "euclidean":
            raise ValueError(f"distance: expected 'euclidean' with quantizer 'gumbel', got {config.distance!r}")
        self.config = config
        self.encoder = VqganEncoder(config, rngs=rngs)
        self.into_codes = conv(config.latent_width, config.code_width, 1, config.dtype, rngs)
        size = config.codebook_size
        table = jax.random.uniform(rngs.params(), (size, config.code_width), minval=-1 / size, maxval=1 / size)
        self.codebook = EmbeddingParam(
            unit(table) if config.distance == "cosine" else table, axes=channel_axes(*table.shape)
        )
        gumbel = config.quantizer == "gumbel"
        self.code_logits = conv(config.code_width, size, 1, config.dtype, rngs) if gumbel else None
        self.out_of_codes = conv(config.code_width, config.latent_width, 1, config.dtype, rngs)
        self.decoder = VqganDecoder(config, rngs=rngs)

    @property
    def codebook_size(self) -> int:
        """The number of codes, K."""
        return self.config.codebook_size

    @property
    def downsample(self) -> int:
        """The side in pixels of the square that one code stands for."""
        return self.config.downsample

    @property
    def code_vectors(self) -> Float[Array, "K c"]:
        """The codebook; unit vectors for the cosine distance."""
        table = self.codebook[...]
        return unit(table) if self.config.distance == "cosine" else table

    def latents(self, values: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Compute the latents that are compared with the codes, in float32, of images in the network's range."""
        x = self.into_codes(self.encoder(values)).astype(jnp.float32)
        return unit(x) if self.config.distance == "cosine" else x

    def logits(self, x: Float[Array, "B h w c"]) -> Float[Array, "B h w K"]:
        """Compute the Gumbel quantizer's logits of the codes, in float32 on all platforms so that codes agree."""
        assert self.code_logits is not None
        assert self.code_logits.bias is not None
        kernel, bias = self.code_logits.kernel[0, 0], self.code_logits.bias[...]  # [c K] [K]
        return jnp.matmul(x, kernel.astype(jnp.float32), precision=jax.lax.Precision.HIGHEST) + bias

    def quantize(self, x: Float[Array, "B h w c"]) -> VqganQuantized:
        """Quantise latents ``x`` to their nearest codes."""
        table = self.code_vectors
        distances = squared_distances(x.reshape(-1, x.shape[-1]), table)  # [n K]
        codes = argmin_and_min(distances)[0].reshape(x.shape[:-1])
        nearest = jnp.take(table, codes, axis=0)  # [B h w c]
        return VqganQuantized(straight_through(x, nearest), x, nearest, codes, distances)

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """Encode images in [0, 1] as codes."""
        x = self.latents(to_range(self.config, pixels))
        return self.quantize(x).codes if self.code_logits is None else self.logits(x).argmax(axis=-1)

    def decode(self, codes: Int[Array, "B h w"]) -> Float[Array, "B H W 3"]:
        """Decode codes to images, clipped to [0, 1]."""
        vectors = jnp.take(self.code_vectors, codes, axis=0, mode="clip")
        return from_range(self.config, self.decoder(self.out_of_codes(vectors)))

    def encode_latents(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Encode images in [0, 1] as the quantizer's inputs; unit vectors for the cosine distance.

        The Gumbel quantizer's latents are mean code vectors under the distribution of the codes.
        """
        x = self.latents(to_range(self.config, pixels))
        if self.code_logits is None:
            return x
        shares = jax.nn.softmax(self.logits(x), axis=-1)
        return jnp.matmul(shares, self.code_vectors, precision=jax.lax.Precision.HIGHEST)

    def decode_latents(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W 3"]:
        """Quantise latents of any length, and decode their codes to images in [0, 1].

        Mean code vectors of the Gumbel quantizer are decoded as they are, as the dVAE's are.
        """
        if self.code_logits is not None:
            return from_range(self.config, self.decoder(self.out_of_codes(latents)))
        return self.decode(self.quantize(unit(latents) if self.config.distance == "cosine" else latents).codes)


def unit(x: Float[Array, "... c"]) -> Float[Array, "... c"]:
    """L2-normalise vectors; those shorter than 1e-12 stay below unit length."""
    return x * jax.lax.rsqrt(jnp.maximum((x * x).sum(-1, keepdims=True), 1e-24))


def to_range(config: VqganConfig, pixels: Float[Array, "..."]) -> Float[Array, "..."]:
    """Map pixels in [0, 1] to the network's range."""
    return 2 * pixels - 1 if config.pixel_range == "-1..1" else pixels


def from_range(config: VqganConfig, values: Float[Array, "..."]) -> Float[Array, "..."]:
    """Map values in the network's range to pixels, clipped to [0, 1]."""
    return ((values + 1) / 2 if config.pixel_range == "-1..1" else values).clip(0, 1)
