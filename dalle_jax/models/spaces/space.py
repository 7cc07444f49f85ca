"""The space that a diffusion model denoises in: pixels, or the latents of an image tokenizer.

In every space x0 has about zero mean and unit variance or less, so that one noise schedule fits. Latents are normalised
by the mean and deviation of each channel, measured on the first images of training (latent diffusion measures a scale,
Rombach et al. 2021, arXiv 2112.10752, appendix G). ``LatentStatistics`` is a part of the trained module, so checkpoints
keep it.

    B batch   H W pixels   h w grid   c channels of x0
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.priors.prior import MeasuredStatistic

LEAST_DEVIATION = 1e-6


@runtime_checkable
class Space(Protocol):
    """Maps between pixels and the array that is denoised."""

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape (h, w, c) of x0 for images of a size. Raise ValueError if the size does not fit."""
        ...

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Encode images in [0, 1] as x0."""
        ...

    def decode(self, x0: Float[Array, "B h w c"]) -> Float[Array, "B H W 3"]:
        """Decode x0 to images, clipped to [0, 1]."""
        ...


@dataclass(frozen=True)
class PixelSpace:
    """Pixels from -1 to 1. Implements ``Space``."""

    @property
    def channels(self) -> int:
        """The channels of x0."""
        return 3

    @property
    def downsample(self) -> int:
        """The side in pixels of the square that one place of x0 stands for."""
        return 1

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the shape of the images."""
        return height, width, 3

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Map [0, 1] to [-1, 1]."""
        return 2 * pixels - 1

    def decode(self, x0: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
        """Map [-1, 1] to [0, 1], clipped."""
        return ((x0 + 1) / 2).clip(0, 1)


@dataclass(frozen=True)
class Latents:
    """The choice of an image tokenizer's latents: the width of its code vectors, and its downsampling factor.

    ``images`` is the number of training images that the normalisation is measured on.
    """

    channels: int
    downsample: int
    images: int = 4096


class LatentMoments(NamedTuple):
    """The mean and the mean square of the latents of each image, by channel."""

    mean: Float[Array, "B c"]
    square: Float[Array, "B c"]

    @classmethod
    def of(cls, latents: Float[Array, "B h w c"]) -> "LatentMoments":
        """Compute the moments of latents."""
        return cls(latents.mean(axis=(1, 2)), jnp.square(latents).mean(axis=(1, 2)))


class LatentStatistics(nnx.Module):
    """The mean and deviation of each channel over the first ``images`` images; 0 and 1 before the first of them.

    They change while they are measured and stay afterwards, so that x0 means the same in nearly all of training. The
    batch that reaches ``images`` counts whole.
    """

    def __init__(self, channels: int, images: int):
        if images < 1:
            raise ValueError(f"images: expected at least 1 to measure latents on, got {images}")
        self.images = images
        self.seen = MeasuredStatistic(jnp.zeros(()), axes=())
        self.mean = MeasuredStatistic(jnp.zeros(channels), axes=(None,))
        self.square = MeasuredStatistic(jnp.ones(channels), axes=(None,))

    @property
    def deviation(self) -> Float[Array, " c"]:
        """The standard deviation of each channel."""
        variance = self.square[...] - jnp.square(self.mean[...])
        return jnp.sqrt(jnp.maximum(variance, LEAST_DEVIATION**2))

    def normalise(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B h w c"]:
        """Scale latents to zero mean and unit variance in each channel."""
        return (latents - self.mean[...]) / self.deviation

    def denormalise(self, x0: Float[Array, "B h w c"]) -> Float[Array, "B h w c"]:
        """Undo ``normalise``."""
        return x0 * self.deviation + self.mean[...]

    def add(self, moments: LatentMoments) -> None:
        """Add the moments of a batch, unless enough images were seen."""
        rows, seen = moments.mean.shape[0], self.seen[...]
        share = jnp.where(seen < self.images, rows / (seen + rows), 0.0)
        for kept, new in ((self.mean, moments.mean), (self.square, moments.square)):
            kept[...] = kept[...] + share * (new.mean(axis=0) - kept[...])
        self.seen[...] = jnp.where(seen < self.images, seen + rows, seen)


@dataclass(frozen=True)
class LatentSpace:
    """The normalised continuous latents of an image tokenizer. Implements ``Space``.

    x0 has no bounds, so a sampler thresholds it not, or with a limit of several deviations.
    """

    tokenizer: ImageTokenizer
    statistics: LatentStatistics

    def shape(self, height: int, width: int) -> tuple[int, int, int]:
        """Return the grid of codes and the width of a code vector."""
        side = self.tokenizer.downsample
        if height % side or width % side:
            raise ValueError(f"image: expected height and width as multiples of {side}, got {height} and {width}")
        return height // side, width // side, self.tokenizer.code_vectors.shape[1]

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Encode and normalise images in [0, 1]."""
        return self.statistics.normalise(self.tokenizer.encode_latents(pixels))

    def decode(self, x0: Float[Array, "B h w c"]) -> Float[Array, "B H W 3"]:
        """Undo the normalisation, and decode to images in [0, 1]."""
        return self.tokenizer.decode_latents(self.statistics.denormalise(x0))
