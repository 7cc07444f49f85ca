"""DALL·E 1's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, appendix A; its weights were published).

Encoder: a 7x7 convolution, groups of residual blocks with a 2x2 max-pool between groups, logits over K codes for each
position. Decoder: a 1x1 convolution over the codes, groups of residual blocks with nearest doubling between groups, and
for each pixel and channel the mean and log-scale of a logit-Laplace distribution (losses/logit_laplace.py). A block is
``skip(x) + residual(x) / L^2``, with L the number of blocks of one side. A ReLU precedes each convolution. There are no
norms. The skip is a 1x1 convolution if the width changes, else the identity.

The initial values of training were not published. Two of them are our own, for short runs: the first convolution maps
grey images to zeros, and the decoder's input for a single code, not for the sum of all K, has variance 1.

    B batch   H W pixels   h w grid   C channels   K codebook
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.layers.conv_blocks import Conv, max_pool, upsample
from dalle_jax.layers.remat import Remat, run_block
from dalle_jax.losses.logit_laplace import map_pixels, unmap_pixels
from dalle_jax.parallel.axes import BATCH, CHANNELS, HEIGHT, WIDTH
from dalle_jax.parallel.layout import constrain

ENCODER_KERNELS = (3, 3, 3, 1)
DECODER_KERNELS = (1, 3, 3, 3)


@dataclass(frozen=True)
class DvaeConfig:
    """Sizes and options of the network. The published model has width 256, codebook_size 8192 and code_width 128.

    ``width`` is the number of channels at full size, which doubles with each group. ``code_width`` is the number of
    output channels of the decoder's first convolution. ``blocks`` is the number per group; the downsampling factor is
    2^(groups - 1). The encoder's last and the decoder's first convolution compute in float32, as published, all others
    in ``dtype``. ``remat`` chooses the activations that a block stores (layers/remat.py).
    """

    width: int
    codebook_size: int
    code_width: int = 128
    groups: int = 4
    blocks: int = 2
    channels: int = 3
    dtype: Literal["float32", "bfloat16"] = "float32"
    remat: Remat = "none"

    @property
    def downsample(self) -> int:
        """The side in pixels of the square that one code stands for."""
        return 2 ** (self.groups - 1)

    def build(self, rngs: nnx.Rngs) -> "Dvae":
        """Create the network with newly initialised weights."""
        return Dvae(self, rngs=rngs)


class PixelDistribution(NamedTuple):
    """The decoder's logit-Laplace distribution of each mapped pixel value."""

    mean: Float[Array, "B H W C"]
    log_scale: Float[Array, "B H W C"]


def conv(inputs: int, features: int, kernel: int, dtype: DTypeLike, rngs: nnx.Rngs, fan_in: int | None = None) -> Conv:
    """Create a convolution with the initial values of the published code: normal, variance 1 / ``fan_in``."""
    init = nnx.initializers.normal((kernel**2 * inputs if fan_in is None else fan_in) ** -0.5)
    return Conv(inputs, features, kernel=kernel, dtype=dtype, init=init, rngs=rngs)


class DvaeBlock(nnx.Module):
    """A residual block ``skip(x) + gain * residual(x)`` whose hidden width is a quarter of ``features``."""

    def __init__(
        self, inputs: int, features: int, kernels: tuple[int, ...], gain: float, dtype: DTypeLike, *, rngs: nnx.Rngs
    ):
        hidden = features // 4
        sizes = (inputs, hidden, hidden, hidden, features)
        self.gain = gain
        self.skip = None if inputs == features else conv(inputs, features, 1, dtype, rngs)
        self.convs = nnx.List(
            conv(one, other, kernel, dtype, rngs)
            for one, other, kernel in zip(sizes[:-1], sizes[1:], kernels, strict=True)
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        """Apply the block at the same height and width."""
        y = x
        for one in self.convs:
            y = one(jax.nn.relu(y))
        return (x if self.skip is None else self.skip(x)) + self.gain * y


class DvaeEncoder(nnx.Module):
    """The encoder from mapped pixels to logits over the codes."""

    def __init__(self, config: DvaeConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.input = conv(config.channels, config.width, 7, config.dtype, rngs)
        assert self.input.bias is not None
        self.input.bias[...] = -0.5 * self.input.kernel.sum((0, 1, 2))
        widths = [config.width * 2**group for group in range(config.groups)]
        self.groups = nnx.List(map(nnx.List, make_groups(config, config.width, widths, ENCODER_KERNELS, rngs)))
        self.output = conv(widths[-1], config.codebook_size, 1, "float32", rngs)

    def __call__(self, mapped: Float[Array, "B H W C"]) -> Float[Array, "B h w K"]:
        """Compute the logits of pixels that were mapped by ``map_pixels``."""
        x = self.input(mapped)
        for index, group in enumerate(self.groups):
            x = run_group(group, max_pool(x) if index else x, self.remat)
        return self.output(jax.nn.relu(x))


class DvaeDecoder(nnx.Module):
    """The decoder from codes, or from distributions over codes, to distributions of pixels."""

    def __init__(self, config: DvaeConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.input = conv(config.codebook_size, config.code_width, 1, "float32", rngs, fan_in=1)
        widths = [config.width * 2**group for group in reversed(range(config.groups))]
        self.groups = nnx.List(map(nnx.List, make_groups(config, config.code_width, widths, DECODER_KERNELS, rngs)))
        self.output = conv(config.width, 2 * config.channels, 1, config.dtype, rngs)

    def soft(self, probabilities: Float[Array, "B h w K"]) -> PixelDistribution:
        """Decode a distribution over codes at each position."""
        return self._from(self.input(probabilities))

    def hard(self, codes: Int[Array, "B h w"]) -> PixelDistribution:
        """Decode codes by looking up rows of the first kernel. This equals ``soft`` of one-hot probabilities."""
        return self.mixed(jnp.take(self.input.kernel[0, 0], codes, axis=0, mode="clip"))

    def mixed(self, vectors: Float[Array, "B h w c"]) -> PixelDistribution:
        """Decode mean vectors of distributions over codes: the first convolution without its bias."""
        return self._from(vectors if self.input.bias is None else vectors + self.input.bias[...])

    def _from(self, x: Float[Array, "B h w c"]) -> PixelDistribution:
        for index, group in enumerate(self.groups):
            x = run_group(group, upsample(x) if index else x, self.remat)
        mean, log_scale = jnp.split(self.output(jax.nn.relu(x)).astype(jnp.float32), 2, axis=-1)
        return PixelDistribution(mean, log_scale)


def make_groups(
    config: DvaeConfig, inputs: int, widths: list[int], kernels: tuple[int, ...], rngs: nnx.Rngs
) -> list[list[DvaeBlock]]:
    """Create the groups of blocks of the encoder or the decoder. The first block of a group changes the width."""
    gain = (config.groups * config.blocks) ** -2
    groups: list[list[DvaeBlock]] = []
    for features in widths:
        sizes = [inputs] + [features] * (config.blocks - 1)
        groups.append([DvaeBlock(size, features, kernels, gain, config.dtype, rngs=rngs) for size in sizes])
        inputs = features
    return groups


def run_group(group: Iterable[DvaeBlock], x: Float[Array, "B H W C"], remat: Remat) -> Float[Array, "B H W F"]:
    """Apply the blocks of a group in order."""
    for block in group:
        x = run_block(block, constrain(x, BATCH, HEIGHT, WIDTH, CHANNELS), remat)
    return x


class Dvae(nnx.Module):
    """DALL·E 1's discrete VAE. Implements ``ImageTokenizer``."""

    def __init__(self, config: DvaeConfig, *, rngs: nnx.Rngs):
        if config.width % 4 or config.groups < 2 or config.blocks < 1:
            raise ValueError(
                f"dVAE: expected width a multiple of 4, groups at least 2 and blocks at least 1, got width "
                f"{config.width}, groups {config.groups} and blocks {config.blocks}"
            )
        self.config = config
        self.encoder = DvaeEncoder(config, rngs=rngs)
        self.decoder = DvaeDecoder(config, rngs=rngs)

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
        """The kernel rows of the decoder's first convolution, which is linear in the codes."""
        return self.decoder.input.kernel[0, 0]

    def logits(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w K"]:
        """Compute the logits of the codes of images in [0, 1]."""
        return self.encoder(map_pixels(pixels))

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """Encode images as their most likely codes."""
        return self.logits(pixels).argmax(axis=-1)

    def decode(self, codes: Int[Array, "B h w"]) -> Float[Array, "B H W 3"]:
        """Decode codes to images, clipped to [0, 1]: the logistic function of the means."""
        return expected_pixels(self.decoder.hard(codes))

    def encode_latents(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Encode images as the mean code vector of each place, under the distribution of its codes."""
        shares = jax.nn.softmax(self.logits(pixels), axis=-1)
        return jnp.matmul(shares, self.code_vectors, precision=jax.lax.Precision.HIGHEST)

    def decode_latents(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W 3"]:
        """Decode mean code vectors to images in [0, 1]; the decoder is linear in them, so nothing is quantised."""
        return expected_pixels(self.decoder.mixed(latents))


def expected_pixels(pixels: PixelDistribution) -> Float[Array, "B H W C"]:
    """Return the image in [0, 1] that the means of the distributions give. The log-scales are not used."""
    return unmap_pixels(jax.nn.sigmoid(pixels.mean))
