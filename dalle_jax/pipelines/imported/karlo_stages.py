"""Karlo's stages: prompt, prior, CLIP image vector, decoder in pixels, two upsamplers; and their inversion.

The stages, their guidance and their steps are those of diffusers' UnCLIPPipeline; the model is arXiv 2204.06125.

    B rows   P prompts   M candidates of a prompt   E embedding   h w size of the decoder   H W size of the image
"""

from typing import NamedTuple

import jax
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.levels import Levels, NoiseLevel, initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, Denoiser, ModelOutput, Parameterization, split_variance
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import invert
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, RecordedNoise, Sampler
from dalle_jax.diffusion.spacing import RoundedSteps
from dalle_jax.models.clip import ClipImage, ClipText
from dalle_jax.models.priors.diffusion_prior import DiffusionPrior
from dalle_jax.models.priors.prior import TextCondition, repeat_rows
from dalle_jax.models.priors.unclip_text_projection import DecoderCondition, UnclipTextProjection
from dalle_jax.models.unet import UNet, UNetContext
from dalle_jax.pipelines.pixel_sampling import INVERSION_REFINEMENTS

FORM = Parameterization("noise", ClipX0(1.0))
"""Decoder and upsamplers predict noise; x0 is clipped to the range of pixels."""
LEARNED, FIXED = Ddpm("learned_range"), Ddpm("fixed_small")
"""The samplers of the decoder, which learned its variance, and of the upsamplers."""


class KarloNetworks(nnx.Module):
    """The networks. ``last_upsampler`` runs in the last step alone. ``image`` embeds images, for edits of them."""

    def __init__(
        self,
        text: ClipText,
        prior: DiffusionPrior,
        projection: UnclipTextProjection,
        decoder: UNet,
        upsampler: UNet,
        last_upsampler: UNet,
        image: ClipImage | None = None,
    ) -> None:
        self.text, self.prior, self.projection, self.decoder = text, prior, projection, decoder
        self.upsampler, self.last_upsampler, self.image = upsampler, last_upsampler, image


class StageNoise(NamedTuple):
    """The noise at which a stage starts, and that of its steps."""

    start: Float[Array, "B ..."]
    steps: KeyedNoise | RecordedNoise

    @classmethod
    def of(cls, keys: Key[Array, " B"], shape: tuple[int, ...]) -> "StageNoise":
        """Draw the noise of each row from its key."""
        return cls(initial_noise(keys, shape), KeyedNoise(keys))


def respaced(steps: int) -> Levels:
    """Return the levels of a stage, whose process of training has 1000 timesteps of cosine noise."""
    return DiscreteProcess.of(CosineNoise()).respaced(RoundedSteps(steps)).levels


def decode(
    networks: KarloNetworks,
    text: TextCondition,
    empty: TextCondition,
    vectors: Float[Array, "B E"],
    noise: StageNoise,
    steps: int,
    scales: Float[Array, " B"] | None,
    sampler: Sampler = LEARNED,
) -> Float[Array, "B h w 3"]:
    """Sample images in -1 .. 1 from texts and image vectors; without ``scales`` there is no guidance.

    Guidance moves away from the ``empty`` text [1 T …] with the learned vector of no image.
    """
    guided = guided_decoder(networks, text, empty, vectors, scales)
    return sampler.sample(guided, respaced(steps), noise.start, noise.steps, FORM).clip(-1, 1)


def invert_images(
    networks: KarloNetworks,
    empty: TextCondition,
    vectors: Float[Array, "B E"],
    images: Float[Array, "B h w 3"],
    steps: int,
    scales: Float[Array, " B"] | None,
) -> Float[Array, "B h w 3"]:
    """Return the noise from which ``decode`` by DDIM without a text makes nearly these images in -1 .. 1."""
    guided = guided_decoder(networks, repeat_rows(empty, len(vectors)), empty, vectors, scales)
    return invert(guided, respaced(steps), images, FORM, INVERSION_REFINEMENTS)


def decoder_output(networks: KarloNetworks, x: Array, level: NoiseLevel, condition: DecoderCondition) -> ModelOutput:
    """Return the decoder's prediction."""
    context = UNetContext(condition.context, condition.mask)
    return split_variance(networks.decoder(x, level.time, vector=condition.time, context=context))


def guided_decoder(
    networks: KarloNetworks,
    text: TextCondition,
    empty: TextCondition,
    vectors: Float[Array, "B E"],
    scales: Float[Array, " B"] | None,
) -> Denoiser:
    """Return the decoder with its conditions, and with guidance of each row's scale."""

    def denoise(x: Array, level: NoiseLevel, condition: DecoderCondition) -> ModelOutput:
        return decoder_output(networks, x, level, condition)

    condition = networks.projection(vectors, text)

    def plain(x: Array, level: NoiseLevel) -> ModelOutput:
        return denoise(x, level, condition)

    if scales is None:
        return plain
    nothing = networks.projection(networks.projection.without_image(len(vectors)), repeat_rows(empty, len(vectors)))
    return classifier_free(denoise, condition, nothing, Guidance(), scales)


def upsample(
    networks: KarloNetworks, image: Float[Array, "B h w 3"], noise: StageNoise, steps: int, sampler: Sampler = FIXED
) -> Float[Array, "B H W 3"]:
    """Sample images in 0 .. 1 of the size of the noise from low-resolution ones in -1 .. 1."""
    low = jax.image.resize(image, noise.start.shape, "bicubic")

    def denoiser(network: UNet) -> Denoiser:
        return lambda x, level: ModelOutput(network(x, level.time, extra=low))

    levels = respaced(steps)
    before = Levels(levels.times[:-1], levels.alphas[:-1], levels.sigmas[:-1])
    x = sampler.sample(denoiser(networks.upsampler), before, noise.start, noise.steps, FORM)
    x = sampler.sample(denoiser(networks.last_upsampler), levels.after(steps - 1), x, noise.steps, FORM)
    return ((x + 1) / 2).clip(0, 1)
