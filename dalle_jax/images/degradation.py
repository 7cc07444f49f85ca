"""Random corruption of low-resolution images in -1 .. 1, so that an upsampler does not trust them too much.

A closed union of small dataclasses; ``apply(images, key)`` corrupts each image of a batch by its own random numbers.

    DALL·E 2, 64 to 256      GaussianBlur       (arXiv 2204.06125, table 3 and section 2.1; SR3, arXiv 2104.07636)
    DALL·E 2, 256 to 1024    BsrDegradation     (arXiv 2103.14006, as in latent diffusion, arXiv 2112.10752)

Letters: B batch, h w image.
"""

import functools
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key

HIGHEST = jax.lax.Precision.HIGHEST
BLOCK = 8
"""The side of JPEG's blocks."""
LUMINANCE = np.array([
    [16, 11, 10, 16, 24, 40, 51, 61], [12, 12, 14, 19, 26, 58, 60, 55], [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62], [18, 22, 37, 56, 68, 109, 103, 77], [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101], [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
"""JPEG's quantisation table of luminance (ITU-T T.81, table K.1), used for all three channels here."""


@dataclass(frozen=True)
class GaussianBlur:
    """A Gaussian blur of ``kernel`` x ``kernel`` pixels on the share ``share`` of images."""

    kernel: int = 3
    sigma: float = 0.6
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.kernel < 1 or not self.kernel % 2 or self.sigma <= 0 or not 0 <= self.share <= 1:
            raise ValueError(
                "kernel, sigma, share: expected an odd number, more than 0 and 0 to 1, got "
                f"{self.kernel}, {self.sigma} and {self.share}"
            )

    def apply(self, images: Float[Array, "B h w 3"], key: Key[Array, ""]) -> Float[Array, "B h w 3"]:
        """Blur a share of the images."""
        chosen = jax.random.bernoulli(key, self.share, (images.shape[0], 1, 1, 1))
        sigmas = jnp.full((images.shape[0], 2), self.sigma)
        return jnp.where(chosen, blurred(images, sigmas, self.kernel), images)


@dataclass(frozen=True)
class BsrDegradation:
    """Blur, resizing, noise and JPEG compression of random strengths, in random order but for the JPEG.

    The blur is anisotropic, with a deviation up to ``sigma`` along each axis. Resizing goes to 1, 3/4 or 1/2 of the
    size and back. The noise has a deviation up to ``noise``, of 2, the range of values. JPEG has a quality of
    ``quality`` to 95. Each takes part in ``share`` of the images.
    """

    sigma: float = 1.0
    noise: float = 0.05
    quality: int = 50
    share: float = 0.5

    def __post_init__(self) -> None:
        if self.sigma <= 0 or self.noise < 0 or not 1 <= self.quality < 95 or not 0 <= self.share <= 1:
            raise ValueError(
                "sigma, noise, quality, share: expected more than 0, 0 or more, 1 to 94 and 0 to 1, got "
                f"{self.sigma}, {self.noise}, {self.quality} and {self.share}"
            )

    def apply(self, images: Float[Array, "B h w 3"], key: Key[Array, ""]) -> Float[Array, "B h w 3"]:
        """Corrupt each image."""
        rows = images.shape[0]
        order_key, jpeg_key, *keys = jax.random.split(key, 5)
        steps = (self._blur, self._resize, self._noise)
        orders = [(0, 1, 2), (1, 2, 0), (2, 0, 1), (0, 2, 1), (1, 0, 2), (2, 1, 0)]
        order = jnp.asarray(orders)[jax.random.randint(order_key, (rows,), 0, len(orders))]  # [B 3]
        for place in range(3):
            results = jnp.stack([step(images, one) for step, one in zip(steps, keys, strict=True)])  # [3 B h w 3]
            images = jnp.take_along_axis(results, order[:, place][None, :, None, None, None], axis=0)[0]
        quality_key, chosen_key = jax.random.split(jpeg_key)
        quality = jax.random.uniform(quality_key, (rows,), minval=self.quality, maxval=95)
        return self._on_share(jpeg(images, quality), images, chosen_key)

    def _on_share(self, changed: Array, images: Array, key: Array) -> Array:
        return jnp.where(jax.random.bernoulli(key, self.share, (images.shape[0], 1, 1, 1)), changed, images)

    def _blur(self, images: Array, key: Array) -> Array:
        sigma_key, chosen_key = jax.random.split(key)
        sigmas = jax.random.uniform(sigma_key, (images.shape[0], 2), minval=0.1, maxval=self.sigma)
        return self._on_share(blurred(images, sigmas, 7), images, chosen_key)

    def _resize(self, images: Array, key: Array) -> Array:
        rows, height, width, channels = images.shape
        sizes = [(round(height * share), round(width * share)) for share in (0.75, 0.5)]
        smaller = [jax.image.resize(images, (rows, *size, channels), "bilinear") for size in sizes]
        results = jnp.stack([images, *(jax.image.resize(one, images.shape, "bilinear") for one in smaller)])
        which = jax.random.randint(key, (1, rows, 1, 1, 1), 0, 3)
        return jnp.take_along_axis(results, which, axis=0)[0]

    def _noise(self, images: Array, key: Array) -> Array:
        noise_key, size_key, chosen_key = jax.random.split(key, 3)
        size = jax.random.uniform(size_key, (images.shape[0], 1, 1, 1), maxval=self.noise)
        return self._on_share(images + size * jax.random.normal(noise_key, images.shape), images, chosen_key)


Degradation: TypeAlias = GaussianBlur | BsrDegradation


def blurred(images: Float[Array, "B h w 3"], sigmas: Float[Array, "B 2"], kernel: int) -> Float[Array, "B h w 3"]:
    """Blur rows and columns of each image by Gaussians of its own deviations; edges are repeated."""
    half = kernel // 2
    weights = jnp.exp(-jnp.square(jnp.arange(-half, half + 1)) / (2 * jnp.square(sigmas[..., None])))
    weights = weights / weights.sum(axis=-1, keepdims=True)  # [B 2 k]
    height, width = images.shape[1:3]
    padded = jnp.pad(images, ((0, 0), (half, half), (half, half), (0, 0)), mode="edge")
    windows = jnp.stack([padded[:, i : i + height] for i in range(kernel)])  # [k B h W 3]
    down = jnp.einsum("kbhwc,bk->bhwc", windows, weights[:, 0], precision=HIGHEST)
    windows = jnp.stack([down[:, :, i : i + width] for i in range(kernel)])  # [k B h w 3]
    return jnp.einsum("kbhwc,bk->bhwc", windows, weights[:, 1], precision=HIGHEST)


@functools.cache
def _cosines() -> np.ndarray:
    """Return the orthonormal cosine transform [frequency place] of JPEG's blocks (ITU-T T.81, A.3.3)."""
    frequency, place = np.meshgrid(np.arange(BLOCK), np.arange(BLOCK), indexing="ij")
    table = np.cos((2 * place + 1) * frequency * np.pi / (2 * BLOCK)) * np.sqrt(2 / BLOCK)
    table[0] /= np.sqrt(2)
    return table


def jpeg(images: Float[Array, "B h w 3"], quality: Float[Array, " B"]) -> Float[Array, "B h w 3"]:
    """Quantise the cosine transform of 8 x 8 blocks as JPEG does at a quality of 1 to 100, on RGB.

    The scale of the table is libjpeg's. Images are padded to whole blocks by repeated edges.
    """
    batch, height, width, channels = images.shape
    pad = (-height % BLOCK, -width % BLOCK)
    padded = jnp.pad(127.5 * images, ((0, 0), (0, pad[0]), (0, pad[1]), (0, 0)), mode="edge")
    rows, columns = padded.shape[1] // BLOCK, padded.shape[2] // BLOCK
    blocks = padded.reshape(batch, rows, BLOCK, columns, BLOCK, channels)
    table = jnp.asarray(_cosines(), jnp.float32)
    found = jnp.einsum("up,bipjqc,vq->biujvc", table, blocks, table, precision=HIGHEST)
    scale = jnp.where(quality < 50, 5000 / quality, 200 - 2 * quality) / 100  # [B]
    step = jnp.maximum(jnp.round(scale[:, None, None] * LUMINANCE), 1.0)[:, None, :, None, :, None]
    quantised = jnp.round(found / step) * step
    back = jnp.einsum("up,biujvc,vq->bipjqc", table, quantised, table, precision=HIGHEST)
    return back.reshape(padded.shape)[:, :height, :width] / 127.5
