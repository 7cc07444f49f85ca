"""The rows of GLIDE, as ``DenoisingSlots`` calls them: base and upsampler, both for inpainting or both not.

B rows   T text length   h w size of the base   H W size of the image
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.diffusion.guidance import Guidance, classifier_free, clip_gradient, score_guided
from dalle_jax.diffusion.latent_edit import keep_known
from dalle_jax.diffusion.levels import NoiseLevel, initial_noise
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput, split_variance
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.row_steps import StepTable, first_rows, step_table
from dalle_jax.images.pixels import to_uint8
from dalle_jax.models.glide import Glide, KnownPixels, kept_pixels
from dalle_jax.models.unet import UNetContext
from dalle_jax.pipelines.imported.glide import GlideNetworks, GlidePipeline
from dalle_jax.pipelines.imported.glide_stages import (
    FORM,
    GlidePrompts,
    base_levels,
    enlarged_base,
    read_prompts,
    upsampler_levels,
    upsampler_noise,
)
from dalle_jax.pipelines.rows.denoise_stage import DenoiseStage, SlotRow, StageProgram
from dalle_jax.pipelines.rows.known_rows import known_of
from dalle_jax.pipelines.rows.slot_image import SlotImage


class EncodedText(NamedTuple):
    """The states and the vector of a text, as a network reads them."""

    states: Float[Array, "B T D"]
    vector: Float[Array, "B E"]


class HeldGlide(NamedTuple):
    """A prompt for the base and for the upsampler, and its vector of the CLIP that guides, None without one."""

    base: EncodedText
    nothing: EncodedText
    upsampler: EncodedText
    toward: Float[Array, "1 E"] | None


class BaseCondition(NamedTuple):
    """The conditions of the base, and the text for the upsampler; ``known`` is None without inpainting networks."""

    given: EncodedText
    nothing: EncodedText
    scale: Float[Array, " B"]
    toward: Float[Array, "B E"] | None
    known: KnownPixels | None
    upsampler: EncodedText


class UpsamplerInputs(NamedTuple):
    """The conditions of the upsampler: the text, and the image of the base, enlarged."""

    given: EncodedText
    low: Float[Array, "B H W 3"]
    known: KnownPixels | None


class GlideRows:
    """The stages of GLIDE."""

    def __init__(self, pipeline: GlidePipeline, together: int) -> None:
        network, self._pipeline, self._file = pipeline.network, pipeline, pipeline.file
        self._hold, self._begin = network.jit(_hold), network.jit(_begin, static_argnames=("side",))
        self._enter = network.jit(_enter, static_argnames=("side",))
        base = DenoiseStage(partial(_base, scale=pipeline.clip_scale), FORM, True, _shown)
        self.stages = [
            StageProgram(network, one, together) for one in (base, DenoiseStage(_upsampler, FORM, False, _shown))
        ]

    def lengths(self, steps: int | None) -> list[int]:
        """Return the steps of base and upsampler."""
        if steps is not None:
            raise ValueError(f"steps: expected None, since GLIDE's are fixed, got {steps}")
        return [self._file.steps, upsampler_levels().steps]

    def hold(self, prompt: str) -> HeldGlide:
        """Run the text through both networks, and through the CLIP that guides."""
        tokenizer, guide = self._pipeline.prompts.tokenizer, self._pipeline.guide_text
        ids = None if guide is None else jnp.asarray(guide.encode_batch([prompt]))
        return self._hold(read_prompts(tokenizer, [prompt]), read_prompts(tokenizer, [""]), ids)

    def begin(self, held: HeldGlide, image: SlotImage, steps: int | None) -> SlotRow:
        """Return an image at the base's first step."""
        del steps
        table, scale = step_table(Ddpm("learned_range"), base_levels(self._file.steps)), image.options.guidance
        known, side = self._known(image, self._file.base_side), self._file.base_side
        return self._begin(held, image.key(), jnp.asarray([scale], jnp.float32), known, table, side=side)

    def enter(self, stage: int, row: SlotRow, image: SlotImage) -> SlotRow:
        """Return an image at the upsampler's first step."""
        del stage
        table, side = step_table(Ddim(), upsampler_levels()), self._file.side
        given = row.condition.upsampler
        return self._enter(row.state.x, given, image.key(), self._known(image, side), table, side=side)

    def _known(self, image: SlotImage, side: int) -> KnownPixels | None:
        return known_of(image.hole, side) if self._pipeline.inpaints else None


def _read(network: Glide, prompts: GlidePrompts) -> EncodedText:
    return EncodedText(*network.text(*prompts))


def _hold(
    networks: GlideNetworks, given: GlidePrompts, empty: GlidePrompts, ids: Int[Array, "1 T"] | None
) -> HeldGlide:
    toward = None if ids is None or networks.guide is None else networks.guide.encode_text(ids)
    base, nothing = _read(networks.base, given), _read(networks.base, empty)
    return HeldGlide(base, nothing, _read(networks.upsampler, given), toward)


def _of_stage(keys: Key[Array, " B"], stage: int) -> Key[Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, stage))(keys)


def _begin(
    networks: GlideNetworks,
    held: HeldGlide,
    keys: Key[Array, " 1"],
    scale: Float[Array, " 1"],
    known: KnownPixels | None,
    table: StepTable,
    *,
    side: int,
) -> SlotRow:
    del networks
    own = _of_stage(keys, 0)
    condition = BaseCondition(held.base, held.nothing, scale, held.toward, known, held.upsampler)
    return SlotRow(first_rows(initial_noise(own, (side, side, 3)), own, table), condition)


def _enter(
    networks: GlideNetworks,
    low: Float[Array, "1 h w 3"],
    text: EncodedText,
    keys: Key[Array, " 1"],
    known: KnownPixels | None,
    table: StepTable,
    *,
    side: int,
) -> SlotRow:
    """Begin to upsample an image of the base."""
    del networks
    own, image = _of_stage(keys, 1), enlarged_base(low, (side, side))
    state = first_rows(upsampler_noise(own, (side, side, 3)).start, own, table)
    return SlotRow(state._replace(estimates=state.estimates.at[:, 0].set(image)), UpsamplerInputs(text, image, known))


def _predict(network: Glide, x: Array, level: NoiseLevel, text: EncodedText, extra: Array | None) -> ModelOutput:
    values = network.unet(x, level.time, vector=text.vector, context=UNetContext(text.states), extra=extra)
    return split_variance(values)


def _base(networks: GlideNetworks, given: BaseCondition, *, scale: float) -> Denoiser:
    """Return the base with guidance, also by a CLIP of noised images if there is one; ``scale`` is the CLIP's."""
    extra = None if given.known is None else kept_pixels(*given.known)

    def denoise(x: Array, level: NoiseLevel, text: EncodedText) -> ModelOutput:
        repeated = None if extra is None else jnp.concatenate([extra] * (len(x) // len(extra)))
        return _predict(networks.base, x, level, text, repeated)

    guided = classifier_free(denoise, given.given, given.nothing, Guidance(), given.scale)
    if given.toward is not None and networks.guide is not None:
        clip = networks.guide
        gradient = clip_gradient(lambda x, level: clip.encode_noised(x, level.time), given.toward)
        guided = score_guided(guided, gradient, scale, FORM.prediction)
    return _keeping(guided, given.known)


def _upsampler(networks: GlideNetworks, given: UpsamplerInputs) -> Denoiser:
    extra = given.low if given.known is None else jnp.concatenate([kept_pixels(*given.known), given.low], axis=-1)

    def denoise(x: Array, level: NoiseLevel) -> ModelOutput:
        return _predict(networks.upsampler, x, level, given.given, extra)

    return _keeping(denoise, given.known)


def _keeping(denoise: Denoiser, known: KnownPixels | None) -> Denoiser:
    return denoise if known is None else keep_known(denoise, known.image, known.mask > 0, FORM.prediction)


def _shown(networks: GlideNetworks, row: SlotRow, finished: bool) -> UInt8[Array, "B h w 3"]:
    del networks
    return to_uint8(((row.state.x if finished else row.state.estimates[:, 0]) + 1) / 2)
