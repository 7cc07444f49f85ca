"""DALL·E 1's discrete VAE (Ramesh et al. 2021, arXiv 2102.12092, appendix A; its weights were published).

Encoder: a 7x7 convolution, groups of residual blocks with a 2x2 max-pool between groups, logits over K codes for each
position. Decoder: a 1x1 convolution over the codes, groups of residual blocks with nearest doubling between groups, and
for each pixel and channel the mean and log-scale of a logit-Laplace distribution (losses/logit_laplace.py). A block is
``skip(x) + residual(x) / L^2``, L the number of blocks of one side; a ReLU stands before each convolution, there are no
norms, and the skip is a 1x1 convolution where the width changes.

Two initial values are ours (those of training were not published), so that short runs get going: grey images begin as
zeros after the first convolution, and a single code, not all K together, begins with variance 1 in the decoder.

    B batch   H W pixels   h w grid   C channels   K codebook
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

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
    """``width`` is that at full size, doubled with each group; ``code_width`` that of the decoder's first convolution.

    ``blocks`` are those of a group; the factor is 2^(groups - 1). As published: width 256, codebook_size 8192,
    code_width 128. What meets the codes (the encoder's last convolution and the decoder's first) computes in float32,
    as published, the rest in ``dtype``; ``remat`` is what a block keeps for its gradient: layers/remat.py.
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
    """What the decoder says of each pixel: mean and log-scale of the logit of its mapped value."""

    mean: Float[Array, "B H W C"]
    log_scale: Float[Array, "B H W C"]


def conv(inputs: int, features: int, kernel: int, dtype: Any, rngs: nnx.Rngs, fan_in: int | None = None) -> Conv:
    """A convolution with the initial values of the published code: normal, variance 1 / ``fan_in``."""
    init = nnx.initializers.normal((kernel**2 * inputs if fan_in is None else fan_in) ** -0.5)
    return Conv(inputs, features, kernel=kernel, dtype=dtype, init=init, rngs=rngs)


class DvaeBlock(nnx.Module):
    """``skip(x) + gain * residual(x)``; the residual's hidden width is a quarter of ``features``."""

    def __init__(
        self, inputs: int, features: int, kernels: tuple[int, ...], gain: float, dtype: Any, *, rngs: nnx.Rngs
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
        """Size stays."""
        y = x
        for one in self.convs:
            y = one(jax.nn.relu(y))
        return (x if self.skip is None else self.skip(x)) + self.gain * y


class DvaeEncoder(nnx.Module):
    """Mapped pixels [B H W 3] to logits [B h w K]."""

    def __init__(self, config: DvaeConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.input = conv(config.channels, config.width, 7, config.dtype, rngs)
        assert self.input.bias is not None
        self.input.bias[...] = -0.5 * self.input.kernel.sum((0, 1, 2))
        widths = [config.width * 2**group for group in range(config.groups)]
        self.groups = nnx.List(map(nnx.List, make_groups(config, config.width, widths, ENCODER_KERNELS, rngs)))
        self.output = conv(widths[-1], config.codebook_size, 1, "float32", rngs)

    def __call__(self, mapped: Float[Array, "B H W C"]) -> Float[Array, "B h w K"]:
        """``mapped`` as ``map_pixels`` gives them."""
        x = self.input(mapped)
        for index, group in enumerate(self.groups):
            x = run_group(group, max_pool(x) if index else x, self.remat)
        return self.output(jax.nn.relu(x))


class DvaeDecoder(nnx.Module):
    """Codes, hard or as shares, to what is known of the pixels."""

    def __init__(self, config: DvaeConfig, *, rngs: nnx.Rngs):
        self.remat = config.remat
        self.input = conv(config.codebook_size, config.code_width, 1, "float32", rngs, fan_in=1)
        widths = [config.width * 2**group for group in reversed(range(config.groups))]
        self.groups = nnx.List(map(nnx.List, make_groups(config, config.code_width, widths, DECODER_KERNELS, rngs)))
        self.output = conv(config.width, 2 * config.channels, 1, config.dtype, rngs)

    def soft(self, shares: Float[Array, "B h w K"]) -> PixelDistribution:
        """From a distribution over the codes of each position."""
        return self._from(self.input(shares))

    def hard(self, codes: Int[Array, "B h w"]) -> PixelDistribution:
        """From codes: the rows of the first kernel are looked up, which is ``soft`` of one-hot shares."""
        x = jnp.take(self.input.kernel[0, 0], codes, axis=0, mode="clip")  # [B h w c]
        return self._from(x if self.input.bias is None else x + self.input.bias[...])

    def _from(self, x: Float[Array, "B h w c"]) -> PixelDistribution:
        for index, group in enumerate(self.groups):
            x = run_group(group, upsample(x) if index else x, self.remat)
        mean, log_scale = jnp.split(self.output(jax.nn.relu(x)).astype(jnp.float32), 2, axis=-1)
        return PixelDistribution(mean, log_scale)


def make_groups(
    config: DvaeConfig, inputs: int, widths: list[int], kernels: tuple[int, ...], rngs: nnx.Rngs
) -> list[list[DvaeBlock]]:
    """The groups of blocks of one side, whose first block changes the width."""
    gain = (config.groups * config.blocks) ** -2
    groups: list[list[DvaeBlock]] = []
    for features in widths:
        sizes = [inputs] + [features] * (config.blocks - 1)
        groups.append([DvaeBlock(size, features, kernels, gain, config.dtype, rngs=rngs) for size in sizes])
        inputs = features
    return groups


def run_group(group: Iterable[DvaeBlock], x: Float[Array, "B H W C"], remat: Remat) -> Float[Array, "B H W F"]:
    """The blocks of a group in order."""
    for block in group:
        x = run_block(block, constrain(x, BATCH, HEIGHT, WIDTH, CHANNELS), remat)
    return x


class Dvae(nnx.Module):
    """An ImageTokenizer that learns: see models/image_tokenizer.py."""

    def __init__(self, config: DvaeConfig, *, rngs: nnx.Rngs):
        if config.width % 4 or config.groups < 2 or config.blocks < 1:
            raise ValueError(
                f"a dVAE's width must be a multiple of 4, with at least 2 groups of at least 1 block, got width="
                f"{config.width}, groups={config.groups}, blocks={config.blocks}"
            )
        self.config = config
        self.encoder = DvaeEncoder(config, rngs=rngs)
        self.decoder = DvaeDecoder(config, rngs=rngs)

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
        """What the decoder's first convolution makes of each code, but for its bias."""
        return self.decoder.input.kernel[0, 0]

    def logits(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w K"]:
        """Values in [0, 1] to logits of the codes."""
        return self.encoder(map_pixels(pixels))

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """The most likely codes."""
        return self.logits(pixels).argmax(axis=-1)

    def decode(self, codes: Int[Array, "B h w"]) -> Float[Array, "B H W 3"]:
        """Images for codes, clipped to [0, 1]: the logistic function of the means."""
        return expected_pixels(self.decoder.hard(codes))


def expected_pixels(pixels: PixelDistribution) -> Float[Array, "B H W C"]:
    """The image in [0, 1] that the means stand for; the log-scales are not used."""
    return unmap_pixels(jax.nn.sigmoid(pixels.mean))
