"""The rows of an unCLIP of pixels, as ``DenoisingSlots`` calls them: a decoder, then its upsamplers.

B rows   h w size of a stage's input   H W size of its image   E embedding
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.latent_edit import keep_known
from dalle_jax.diffusion.levels import NoiseLevel, add_noise, initial_noise
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput, Parameterization
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.row_steps import StepTable, TableSampler, first_rows, step_table
from dalle_jax.diffusion.tiles import Tiles, tiled
from dalle_jax.diffusion.trained_diffusion import ImageSampling, from_pixels, to_pixels
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.models.decoders.pixel_decoder import ImageCondition
from dalle_jax.models.decoders.upsampler import LowResolution, Upsampler, UpsamplerConfig, enlarged, low_noise_level
from dalle_jax.models.glide import KnownPixels
from dalle_jax.pipelines.embedding_pipeline import PromptIds, Sees, given_inputs
from dalle_jax.pipelines.pixel_unclip import PixelNetworks, PixelUnclip
from dalle_jax.pipelines.rows.denoise_stage import DenoiseStage, SlotRow, StageProgram
from dalle_jax.pipelines.rows.denoising_slots import MOST_STEPS
from dalle_jax.pipelines.rows.known_rows import known_of
from dalle_jax.pipelines.rows.prompt_vectors import HeldTexts, PromptVectors
from dalle_jax.pipelines.rows.slot_image import SlotImage


class PixelCondition(NamedTuple):
    """The decoder's conditions with and without the prompt; ``known`` is None for a decoder of latents."""

    given: ImageCondition
    nothing: ImageCondition
    scale: Float[Array, " B"]
    known: KnownPixels | None


class UpsamplerCondition(NamedTuple):
    """The low-resolution image, enlarged, and the known pixels; None for a decoder of latents."""

    low: LowResolution
    known: KnownPixels | None


class PixelRows:
    """The stages of an unCLIP of pixels."""

    def __init__(self, pipeline: PixelUnclip, together: int) -> None:
        self._pipeline, network, sampling = pipeline, pipeline.network, pipeline.sampling
        self._vectors = PromptVectors(pipeline, network)
        self._begin = network.jit(_begin, static_argnames=("sees",))
        form = Parameterization(pipeline.decoder_config.diffusion.prediction, sampling.decoder.threshold)
        decoder = StageProgram(network, DenoiseStage(_decoder, form, True, _decoded), together)
        self._enter = [one.jit(_enter, static_argnames=("noise",)) for one in pipeline.upsamplers]
        self._sides = [pipeline.decoder_config.image_size]
        self.stages: list[StageProgram[Any]] = [decoder]
        for one, config, own in zip(pipeline.upsamplers, pipeline.upsampler_configs, sampling.upsamplers, strict=False):
            self._sides.append(self._sides[-1] * config.factor)
            tiles = sampling.tiles if self._sides[-1] > sampling.tiles.side else None
            self.stages.append(StageProgram(one, _upsampler_stage(config, own, tiles), together))

    def lengths(self, steps: int | None) -> list[int]:
        """Return the steps of the decoder and of the upsamplers."""
        sampling = self._pipeline.sampling
        first = sampling.decoder.steps if steps is None else steps
        return [first, *(one.steps for one in sampling.upsamplers[: len(self._enter)])]

    def hold(self, prompt: str) -> HeldTexts:
        """Compute the text that the prior reads."""
        return self._vectors.hold(prompt)

    def begin(self, held: HeldTexts, image: SlotImage, steps: int | None) -> SlotRow:
        """Return an image at the decoder's first step."""
        found, vector, own = self._vectors.of(held, image), image.vector, self._pipeline.sampling.decoder
        start = None if vector is None or vector.start is None else jnp.asarray(vector.start)[None]
        sampler = own.sampler if vector is None or vector.start is None else Ddim(vector.eta)
        levels = self._pipeline.decoder_config.diffusion.levels(self.lengths(steps)[0])
        table = step_table(sampler, levels, order=_order(own.sampler), room=max(MOST_STEPS, own.steps))
        scale = jnp.asarray([image.options.guidance], jnp.float32)
        return self._begin(
            held.ids, found.vector, image.key(), scale, self._known(image, 0), start, table, sees=found.sees
        )

    def enter(self, stage: int, row: SlotRow, image: SlotImage) -> SlotRow:
        """Return an image at the first step of an upsampler."""
        pipeline, number = self._pipeline, stage - 1
        own = pipeline.sampling.upsamplers[number]
        levels = pipeline.upsampler_configs[number].diffusion.levels(own.steps)
        table = step_table(own.sampler, levels, order=_order(own.sampler))
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 2 + number))(image.key())
        pixels = self.stages[number].image(row)
        return self._enter[number](pixels, keys, self._known(image, stage), table, noise=pipeline.sampling.noise)

    def _known(self, image: SlotImage, stage: int) -> KnownPixels | None:
        return known_of(image.hole, self._sides[stage]) if self._pipeline.inpaints else None


def _order(sampler: TableSampler) -> int:
    """Return the number of estimates of x0 that a step reads."""
    return sampler.order if isinstance(sampler, DpmSolver) else 1


def _upsampler_stage(config: UpsamplerConfig, sampling: ImageSampling, tiles: Tiles | None) -> DenoiseStage[Upsampler]:
    """Return the stage of an upsampler."""
    form = Parameterization(config.diffusion.prediction, sampling.threshold)
    deterministic = isinstance(sampling.sampler, DpmSolver) or sampling.sampler == Ddim()

    def denoiser(network: Upsampler, given: UpsamplerCondition) -> Denoiser:
        def denoise(x: Array, level: NoiseLevel, part: Array) -> ModelOutput:
            return network(x, level, LowResolution(part, given.low.noise))

        def whole(x: Array, level: NoiseLevel) -> ModelOutput:
            return denoise(x, level, given.low.image)

        chosen = whole if tiles is None else tiled(denoise, given.low.image, tiles)
        return _keeping(chosen, given.known, form)

    def show(network: Upsampler, row: SlotRow, finished: bool) -> UInt8[Array, "B H W 3"]:
        del network
        return to_uint8(to_pixels(row.state.x if finished else row.state.estimates[:, 0]))

    return DenoiseStage(denoiser, form, not deterministic, show)


def _begin(
    networks: PixelNetworks,
    ids: PromptIds,
    vector: Float[Array, "1 E"],
    keys: Key[Array, " 1"],
    scale: Float[Array, " 1"],
    known: KnownPixels | None,
    start: Float[Array, "1 h w c"] | None,
    table: StepTable,
    *,
    sees: Sees,
) -> SlotRow:
    decoder, side = networks.decoder, networks.decoder.config.image_size
    guide, read = given_inputs(ids, vector[:, None], sees), known if decoder.config.inpaints else None
    noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    shape = decoder.space(networks.image_tokenizer).shape(side, side)
    first = initial_noise(noise_keys, shape) if start is None else start
    condition = PixelCondition(decoder.condition(guide, read), decoder.condition(guide.nothing(), read), scale, known)
    return SlotRow(first_rows(first, noise_keys, table), condition)


def _decoder(networks: PixelNetworks, given: PixelCondition) -> Denoiser:
    decoder = networks.decoder
    denoise = classifier_free(decoder.denoise, given.given, given.nothing, Guidance(), given.scale)
    return _keeping(denoise, given.known, Parameterization(decoder.config.diffusion.prediction))


def _keeping(denoise: Denoiser, known: KnownPixels | None, form: Parameterization) -> Denoiser:
    """Return the network with the known pixels of each row kept."""
    return denoise if known is None else keep_known(denoise, known.image, known.mask > 0, form.prediction)


def _decoded(networks: PixelNetworks, row: SlotRow, finished: bool) -> UInt8[Array, "B H W 3"]:
    x0 = row.state.x if finished else row.state.estimates[:, 0]
    return to_uint8(networks.decoder.space(networks.image_tokenizer).decode(x0))


def _enter(
    upsampler: Upsampler,
    pixels: UInt8[Array, "1 h w 3"],
    keys: Key[Array, " 1"],
    known: KnownPixels | None,
    table: StepTable,
    *,
    noise: float,
) -> SlotRow:
    """Begin to upsample an image, as ``upsample_pixels`` does."""
    low, amounts = from_pixels(to_float(pixels)), jnp.full(1, noise)
    if upsampler.config.sees_noise:
        low = add_noise(low, initial_noise(keys, low.shape[1:]), low_noise_level(amounts))
    image = enlarged(low, upsampler.config.factor)
    state = first_rows(initial_noise(keys, image.shape[1:]), keys, table)
    state = state._replace(estimates=state.estimates.at[:, 0].set(image))
    return SlotRow(state, UpsamplerCondition(LowResolution(image, amounts), known))
