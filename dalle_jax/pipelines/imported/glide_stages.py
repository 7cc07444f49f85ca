"""GLIDE's stages: caption, base network, upsampler; both also inpaint (Nichol et al. 2021, arXiv 2112.10741).

The processes, steps and temperature are those of the published notebooks.

    B batch   T text length   h w size of the base   H W size of the image
"""

from typing import NamedTuple

import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int, Key
from dalle_jax.diffusion.guidance import Guidance, LogLikelihoodGradient, classifier_free, score_guided
from dalle_jax.diffusion.latent_edit import keep_known
from dalle_jax.diffusion.levels import Levels, NoiseLevel, initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise, LinearNoise
from dalle_jax.diffusion.parameterization import ClipX0, Denoiser, ModelOutput, Parameterization, split_variance
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, Sampler
from dalle_jax.diffusion.spacing import Fast27Steps, SectionSteps
from dalle_jax.models.glide import Glide, KnownPixels, kept_pixels, low_resolution
from dalle_jax.pipelines.imported.karlo_stages import StageNoise
from dalle_jax.text.tokenizer import TextTokenizer

FORM = Parameterization("noise", ClipX0(1.0))
UPSAMPLER_TEMPERATURE = 0.997
"""The factor of the upsampler's noise."""


class GlidePrompts(NamedTuple):
    """Token ids, and the positions that hold text."""

    tokens: Int[Array, "B T"]
    mask: Bool[Array, "B T"]


class ClipGuide(NamedTuple):
    """The gradient of a noised CLIP's similarity with the prompts, and its scale."""

    gradient: LogLikelihoodGradient
    scale: float


def read_prompts(tokenizer: TextTokenizer, captions: list[str]) -> GlidePrompts:
    """Encode captions; the empty one, for guidance, holds no text."""
    tokens = jnp.asarray(tokenizer.encode_batch(captions))
    return GlidePrompts(tokens, tokens != tokenizer.pad_id)


def base_levels(steps: int = 100) -> Levels:
    """Return the steps of the base."""
    return DiscreteProcess.of(CosineNoise(), SectionSteps((steps,))).levels


def upsampler_levels() -> Levels:
    """Return the 27 steps of the upsampler."""
    return DiscreteProcess.of(LinearNoise(), Fast27Steps()).levels


def sample_base(
    network: Glide,
    prompts: GlidePrompts,
    empty: GlidePrompts,
    noise: StageNoise,
    scales: Float[Array, " B"] | None,
    *,
    known: KnownPixels | None = None,
    guide: ClipGuide | None = None,
    levels: Levels | None = None,
    sampler: Sampler = Ddpm("learned_range"),  # noqa: B008 (frozen)
) -> Float[Array, "B h w 3"]:
    """Sample images in -1 .. 1 with guidance of each row's scale, or without; ``known`` needs an inpainting network.

    ``guide`` is the guidance by a CLIP that was trained on noised images (section 2.4), alone or beside the other.
    """
    extra = None if known is None else kept_pixels(*known)

    def denoise(x: Array, level: NoiseLevel, condition: GlidePrompts) -> ModelOutput:
        repeated = None if extra is None else jnp.concatenate([extra] * (len(x) // len(extra)))
        return split_variance(network(x, level.time, *condition, extra=repeated))

    def plain(x: Array, level: NoiseLevel) -> ModelOutput:
        return denoise(x, level, prompts)

    guided: Denoiser = plain
    if scales is not None:
        rows = GlidePrompts(*(jnp.broadcast_to(one, other.shape) for one, other in zip(empty, prompts, strict=True)))
        guided = classifier_free(denoise, prompts, rows, Guidance(), scales)
    if guide is not None:
        guided = score_guided(guided, guide.gradient, guide.scale, FORM.prediction)
    return _sample(guided, noise, known, base_levels() if levels is None else levels, sampler)


def sample_upsampler(
    network: Glide,
    prompts: GlidePrompts,
    low: Float[Array, "B h w 3"],
    noise: StageNoise,
    *,
    known: KnownPixels | None = None,
    levels: Levels | None = None,
    sampler: Sampler = Ddim(),  # noqa: B008 (frozen)
) -> Float[Array, "B H W 3"]:
    """Sample images in -1 .. 1 of the size of the noise, from the base's (``enlarged_base``).

    Neither guidance nor new noise is used. The noise is expected with deviation ``UPSAMPLER_TEMPERATURE``.
    """
    enlarged = enlarged_base(low, (noise.start.shape[1], noise.start.shape[2]))
    extra = enlarged if known is None else jnp.concatenate([kept_pixels(*known), enlarged], axis=-1)

    def denoise(x: Array, level: NoiseLevel) -> ModelOutput:
        return split_variance(network(x, level.time, *prompts, extra=extra))

    return _sample(denoise, noise, known, upsampler_levels() if levels is None else levels, sampler)


def enlarged_base(low: Float[Array, "B h w 3"], size: tuple[int, int]) -> Float[Array, "B H W 3"]:
    """Enlarge images of the base in -1 .. 1, rounded to 256 values first, to ``size`` (H, W)."""
    return low_resolution(jnp.round((low + 1) * 127.5) / 127.5 - 1, size)


def upsampler_noise(keys: Key[Array, " B"], shape: tuple[int, ...]) -> StageNoise:
    """Draw the upsampler's noise of each row from its key."""
    scaled = initial_noise(keys, shape, UPSAMPLER_TEMPERATURE)
    return StageNoise(scaled, KeyedNoise(keys, UPSAMPLER_TEMPERATURE))


def _sample(
    denoise: Denoiser, noise: StageNoise, known: KnownPixels | None, levels: Levels, sampler: Sampler
) -> Float[Array, "B H W 3"]:
    """Sample, with x0 of every step replaced by known pixels where they are kept."""
    if known is not None:
        denoise = keep_known(denoise, known.image, known.mask > 0, FORM.prediction)
    return sampler.sample(denoise, levels, noise.start, noise.steps, FORM)
