"""DALL·E 2's upsamplers: a UNet without attention that reads a low-resolution image (arXiv 2204.06125, section 2.1).

The low-resolution image, resized to the size of the output, is concatenated to the noised image. With ``sees_noise``
the network is told how much noise was added to it (noise conditioning augmentation, Ho et al. 2021, arXiv 2106.15282,
section 4.1). Since it has no attention, crops train it for images of any size.

    B batch   H W pixels of the output   F time width
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.continuous import CosinePath
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.trained_diffusion import TIME_SCALE, TrainedDiffusion, model_output
from dalle_jax.layers.linear import Linear
from dalle_jax.models.unet import UNet, UNetConfig, timestep_embedding
from dalle_jax.parallel.axes import EMBED, MLP


class LowResolution(NamedTuple):
    """A low-resolution image in -1 .. 1, resized to the output, and the time 0 .. 1 of the noise added to it."""

    image: Float[Array, "B H W 3"]
    noise: Float[Array, " B"]


@dataclass(frozen=True, kw_only=True)
class UpsamplerConfig:
    """The sizes of the UNet, which has 3 ``extra_channels`` and no context, and the diffusion of its training.

    ``factor`` is the side of the output by that of the low-resolution image.
    """

    unet: UNetConfig
    factor: int = 4
    sees_noise: bool = False
    diffusion: TrainedDiffusion = field(default_factory=TrainedDiffusion)

    def __post_init__(self) -> None:
        self.diffusion.check_variance(self.learned_variance)
        if self.unet.extra_channels != self.unet.channels or self.unet.context_width or self.factor < 2:
            raise ValueError(
                f"unet.extra_channels, unet.context_width, factor: expected {self.unet.channels}, 0 and 2 or more, got "
                f"{self.unet.extra_channels}, {self.unet.context_width} and {self.factor}"
            )

    @property
    def learned_variance(self) -> bool:
        """True if the network learns a variance."""
        return self.unet.learned_variance

    def build(self, rngs: nnx.Rngs) -> "Upsampler":
        """Create the network with newly initialised weights."""
        return Upsampler(self, rngs=rngs)


class NoiseEmbedding(nnx.Module):
    """The embedding of the time of the noise in the low-resolution image, as the UNet's of its own time."""

    def __init__(self, width: int, features: int, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.width = width
        self.up = Linear(width, features, axes=(EMBED, MLP), dtype=dtype, rngs=rngs)
        self.out = Linear(features, features, axes=(MLP, EMBED), dtype=dtype, rngs=rngs)

    def __call__(self, noise: Float[Array, " B"]) -> Float[Array, "B F"]:
        """Return the addend of the UNet's time embedding."""
        return self.out(jax.nn.silu(self.up(timestep_embedding(TIME_SCALE * noise, self.width))))


class Upsampler(nnx.Module):
    """The network ``(noised image, level, low-resolution image) -> prediction``. A ``ConditionedDenoiser``."""

    def __init__(self, config: UpsamplerConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, time, dtype = config.unet.width, config.unet.time_width, config.unet.dtype
        self.unet = UNet(config.unet, rngs=rngs)
        self.noise = NoiseEmbedding(width, time, dtype, rngs=rngs) if config.sees_noise else None

    def __call__(
        self, x: Float[Array, "B H W 3"], level: NoiseLevel, low: LowResolution, key: Key[Array, ""] | None = None
    ) -> ModelOutput:
        """Predict from noised images; without ``key`` there is no dropout."""
        vector = None if self.noise is None else self.noise(low.noise)
        values = self.unet(x, level.time, vector=vector, extra=low.image, key=key)
        return model_output(values, self.config.learned_variance)


def enlarged(low: Float[Array, "B h w 3"], factor: int) -> Float[Array, "B H W 3"]:
    """Enlarge low-resolution images bicubically, as the published Karlo does."""
    batch, height, width, channels = low.shape
    return jax.image.resize(low, (batch, factor * height, factor * width, channels), "bicubic")


def reduced(image: Float[Array, "B H W 3"], factor: int) -> Float[Array, "B h w 3"]:
    """Return the mean of each ``factor`` x ``factor`` square."""
    batch, height, width, channels = image.shape
    squares = image.reshape(batch, height // factor, factor, width // factor, factor, channels)
    return jnp.mean(squares, axis=(2, 4))


def low_noise_level(times: Float[Array, " B"]) -> NoiseLevel:
    """Return the level of noise in the low-resolution image at times 0 .. 1: none at 0."""
    return CosinePath().level(times)
