"""Sampling of pixels: images of a decoder from captions and embeddings, and upsampled images, in tiles if asked for."""

import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.latent_edit import keep_known
from dalle_jax.diffusion.levels import NoiseLevel, add_noise, initial_noise
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput
from dalle_jax.diffusion.tiles import Tiles, tiled
from dalle_jax.diffusion.trained_diffusion import ImageSampling, from_pixels, to_pixels
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder
from dalle_jax.models.decoders.upsampler import LowResolution, Upsampler, enlarged, low_noise_level
from dalle_jax.models.glide import KnownPixels
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.spaces.space import Latents


def sample_pixels(
    decoder: PixelDecoder,
    guide: Guide,
    keys: Key[Array, " B"],
    sampling: ImageSampling,
    scales: Float[Array, " B"] | None,
    tokenizer: ImageTokenizer | None = None,
    known: KnownPixels | None = None,
    start: Float[Array, "B h w c"] | None = None,
) -> Float[Array, "B H W 3"]:
    """Sample images in 0 .. 1; with ``scales``, classifier-free guidance of each row drops caption and embedding.

    A decoder of latents needs their image ``tokenizer``. ``known`` pixels, of a decoder of pixels, come back to
    rounding: they replace x0 in each step, as in GLIDE's notebooks, and a decoder that inpaints also reads them.
    ``start`` is the noise to begin with.
    """
    space, side = decoder.space(tokenizer), decoder.config.image_size
    denoise, shape = _guided(decoder, guide, scales, known), space.shape(side, side)
    return space.decode(sampling.sample(denoise, decoder.config.diffusion, keys, shape, start))


INVERSION_REFINEMENTS = 3
"""The fixed-point iterations of each inverted step (samplers/ddim.py)."""


def invert_pixels(
    decoder: PixelDecoder,
    guide: Guide,
    pixels: Float[Array, "B H W 3"],
    sampling: ImageSampling,
    scales: Float[Array, " B"] | None,
    tokenizer: ImageTokenizer | None = None,
) -> Float[Array, "B h w c"]:
    """Return the noise from which ``sample_pixels`` with DDIM of eta 0 makes nearly these images in 0 .. 1."""
    x0 = decoder.space(tokenizer).encode(pixels)
    return sampling.invert(_guided(decoder, guide, scales), decoder.config.diffusion, x0, INVERSION_REFINEMENTS)


def _guided(
    decoder: PixelDecoder, guide: Guide, scales: Float[Array, " B"] | None, known: KnownPixels | None = None
) -> Denoiser:
    """Return the decoder with its conditions, with guidance of each row's scale, and with known pixels kept."""
    read = known if decoder.config.inpaints else None
    condition = decoder.condition(guide, read)

    def plain(x: Array, level: NoiseLevel) -> ModelOutput:
        return decoder.denoise(x, level, condition)

    denoise: Denoiser = plain
    if scales is not None:
        nothing = decoder.condition(guide.nothing(), read)
        denoise = classifier_free(decoder.denoise, condition, nothing, Guidance(), scales)
    if known is None:
        return denoise
    if isinstance(decoder.config.space, Latents):
        raise ValueError("known: expected None for a decoder of latents, got known pixels")
    return keep_known(denoise, known.image, known.mask > 0, decoder.config.diffusion.prediction)


def upsample_pixels(
    upsampler: Upsampler,
    pixels: Float[Array, "B h w 3"],
    keys: Key[Array, " B"],
    sampling: ImageSampling,
    noise: float = 0.0,
    tiles: Tiles | None = None,
    known: KnownPixels | None = None,
) -> Float[Array, "B H W 3"]:
    """Upsample images in 0 .. 1, whole or in tiles; ``known`` pixels of the larger image come back to rounding.

    ``noise`` is the level, as a diffusion time in 0 .. 1, of the noise that is added to the low-resolution image. It is
    not used by a network that was trained without noise on that image (``sees_noise`` of its config).
    """
    rows, config = pixels.shape[0], upsampler.config
    low, amounts = from_pixels(pixels), jnp.full(rows, noise)
    if config.sees_noise:
        low = add_noise(low, initial_noise(keys, low.shape[1:]), low_noise_level(amounts))
    image = enlarged(low, config.factor)

    def denoise(x: Array, level: NoiseLevel, part: Array) -> ModelOutput:
        return upsampler(x, level, LowResolution(part, amounts))

    def whole(x: Array, level: NoiseLevel) -> ModelOutput:
        return denoise(x, level, image)

    chosen = whole if tiles is None else tiled(denoise, image, tiles)
    if known is not None:
        chosen = keep_known(chosen, known.image, known.mask > 0, config.diffusion.prediction)
    return to_pixels(sampling.sample(chosen, config.diffusion, keys, image.shape[1:]))
