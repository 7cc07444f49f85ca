"""Karlo, the published unCLIP: prompt, prior, CLIP image vector, decoder in pixels, two upsamplers.

The stages, their guidance and their steps are those of diffusers' UnCLIPPipeline; the model is arXiv 2204.06125.

    B rows   P prompts   M candidates of a prompt   E embedding   h w size of the decoder   H W size of the image
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.levels import Levels, NoiseLevel, initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, Denoiser, ModelOutput, Parameterization, split_variance
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, RecordedNoise, Sampler
from dalle_jax.diffusion.spacing import RoundedSteps
from dalle_jax.images.pixels import to_uint8
from dalle_jax.models.clip import ClipText
from dalle_jax.models.priors.diffusion_prior import DiffusionPrior
from dalle_jax.models.priors.prior import PriorOptions, TextCondition, read_text, repeat_rows
from dalle_jax.models.priors.unclip_text_projection import DecoderCondition, UnclipTextProjection
from dalle_jax.models.unet import UNet, UNetContext
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.prompted_pipeline import DiffusionPipeline, DrawCall
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker

FORM = Parameterization("noise", ClipX0(1.0))
"""Decoder and upsamplers predict noise; x0 is clipped to the range of pixels."""
LEARNED, FIXED = Ddpm("learned_range"), Ddpm("fixed_small")
"""The samplers of the decoder, which learned its variance, and of the upsamplers."""


@dataclass(frozen=True)
class KarloFile:
    """The content of ``karlo.gin``, next to the folders of the six networks: image sizes, and steps as published.

    ``decoder_side`` and ``side`` are the sides of the decoder's image and of the result, in pixels. The guidance of the
    decoder belongs to a request; 8 is the published one.
    """

    decoder_side: int
    side: int
    prior: PriorOptions = field(default_factory=lambda: PriorOptions(guidance=4.0, steps=25, draws=1))
    decoder_steps: int = 25
    upsampler_steps: int = 7

    def __post_init__(self) -> None:
        if min(self.decoder_steps, self.upsampler_steps) < 2:
            raise ValueError(
                "decoder_steps, upsampler_steps: expected at least 2 each, got "
                f"{self.decoder_steps} and {self.upsampler_steps}"
            )


class KarloNetworks(nnx.Module):
    """The six networks. ``last_upsampler`` runs in the last step alone."""

    def __init__(
        self,
        text: ClipText,
        prior: DiffusionPrior,
        projection: UnclipTextProjection,
        decoder: UNet,
        upsampler: UNet,
        last_upsampler: UNet,
    ) -> None:
        self.text, self.prior, self.projection, self.decoder = text, prior, projection, decoder
        self.upsampler, self.last_upsampler = upsampler, last_upsampler


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

    def denoise(x: Array, level: NoiseLevel, condition: DecoderCondition) -> ModelOutput:
        context = UNetContext(condition.context, condition.mask)
        return split_variance(networks.decoder(x, level.time, vector=condition.time, context=context))

    condition = networks.projection(vectors, text)

    def plain(x: Array, level: NoiseLevel) -> ModelOutput:
        return denoise(x, level, condition)

    guided: Denoiser = plain
    if scales is not None:
        nothing = networks.projection(networks.projection.without_image(len(vectors)), repeat_rows(empty, len(vectors)))
        guided = classifier_free(denoise, condition, nothing, Guidance(), scales)
    return sampler.sample(guided, respaced(steps), noise.start, noise.steps, FORM).clip(-1, 1)


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


def _sample(
    networks: KarloNetworks,
    ids: Int[Array, "P T"],
    empty_ids: Int[Array, "1 T"],
    keys: Key[Array, "P M"],
    guidance: Float[Array, " P"],
    file: KarloFile,
    guided: bool,
) -> UInt8[Array, "B H W 3"]:
    """Sample M images of each prompt; an image depends on its key and its prompt alone."""
    text, empty = (read_text(networks.text, one, networks.prior.unit_vectors) for one in (ids, empty_ids))
    rows, count = keys.reshape(-1), keys.shape[1]
    prior_keys, decoder_keys, upsampler_keys = (
        jax.vmap(lambda key, stage=stage: jax.random.fold_in(key, stage))(rows) for stage in range(3)
    )
    vectors = networks.prior.draw(text, empty, prior_keys.reshape(keys.shape), file.prior)
    small = StageNoise.of(decoder_keys, (file.decoder_side, file.decoder_side, 3))
    scales = jnp.repeat(guidance, count) if guided else None
    image = decode(
        networks, repeat_rows(text, count), empty, vectors.reshape(len(rows), -1), small, file.decoder_steps, scales
    )
    large = StageNoise.of(upsampler_keys, (file.side, file.side, 3))
    return to_uint8(upsample(networks, image, large, file.upsampler_steps))


class Karlo(DiffusionPipeline):
    """The six networks, the reader of prompts, and a CLIP that ranks the images, if there is one.

    A call samples at most ``batch`` images.
    """

    def __init__(
        self,
        networks: KarloNetworks,
        prompts: TextPrompts,
        file: KarloFile,
        *,
        ranker: ClipRanker | None = None,
        batch: int = 64,
        layout: Layout | None = None,
    ) -> None:
        """Place the networks by ``layout``, by default on one device."""
        self.prompts, self.file, self.ranker, self.batch = prompts, file, ranker, batch
        network = CompiledNetwork(networks, layout)
        self._sample, self.parts = network.jit(_sample, static_argnames=("file", "guided")), network.parts

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        return self.file.side

    def _pixels(self, call: DrawCall) -> UInt8[Array, "B H W 3"]:
        """Sample the candidates of each prompt; ``guidance`` is the decoder's."""
        ids = jnp.asarray(self.prompts.read([*call.prompts, ""]))
        return self._sample(ids[:-1], ids[-1:], call.keys, call.guidance, file=self.file, guided=call.guided)
