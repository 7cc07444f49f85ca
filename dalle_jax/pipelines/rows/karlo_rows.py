"""The rows of Karlo, as ``DenoisingSlots`` calls them: decoder, upsampler, and the upsampler of the last step.

B rows   E embedding   h w size of the decoder   H W size of the image
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.levels import Levels, NoiseLevel, initial_noise
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.row_steps import StepTable, TableSampler, first_rows, step_table
from dalle_jax.images.pixels import to_uint8
from dalle_jax.models.priors.prior import TextCondition, read_text
from dalle_jax.models.priors.unclip_text_projection import DecoderCondition
from dalle_jax.models.unet import UNet
from dalle_jax.pipelines.imported.karlo import DECODER, PRIOR, UPSAMPLER, Karlo, KarloFile
from dalle_jax.pipelines.imported.karlo_stages import FIXED, FORM, LEARNED, KarloNetworks, decoder_output, respaced
from dalle_jax.pipelines.rows.denoise_stage import DenoiseStage, SlotRow, StageProgram
from dalle_jax.pipelines.rows.slot_image import SlotImage


class KarloTexts(NamedTuple):
    """A prompt and the empty text, as Karlo's networks read them."""

    given: TextCondition
    empty: TextCondition


class KarloCondition(NamedTuple):
    """The decoder's conditions with and without the prompt."""

    given: DecoderCondition
    nothing: DecoderCondition
    scale: Float[Array, " B"]


class KarloRows:
    """The stages of Karlo."""

    def __init__(self, pipeline: Karlo, together: int) -> None:
        network, self._pipeline, self._file = pipeline.network, pipeline, pipeline.file
        self._hold, self._vector = network.jit(_hold), network.jit(_vector, static_argnames=("file",))
        self._begin = network.jit(_begin, static_argnames=("side",))
        self._enter = network.jit(_enter, static_argnames=("side",))
        decoder = DenoiseStage(_decoder, FORM, True, _shown)
        upsampler, last = (
            DenoiseStage(_upsampler, FORM, True, _shown),
            DenoiseStage(_last_upsampler, FORM, False, _shown),
        )
        self.stages = [StageProgram(network, one, together) for one in (decoder, upsampler, last)]

    def lengths(self, steps: int | None) -> list[int]:
        """Return the steps of the stages; the last upsampler has one."""
        if steps is not None:
            raise ValueError(f"steps: expected None, since Karlo's are fixed, got {steps}")
        return [self._file.decoder_steps, self._file.upsampler_steps - 1, 1]

    def hold(self, prompt: str) -> KarloTexts:
        """Compute the text."""
        return self._hold(jnp.asarray(self._pipeline.prompts.read([prompt])), self._pipeline.empty_ids)

    def begin(self, held: KarloTexts, image: SlotImage, steps: int | None) -> SlotRow:
        """Return an image at the decoder's first step; a given vector is decoded without a text."""
        key, given, sampler, start = image.key(), image.vector, LEARNED, None
        moves: TableSampler = sampler
        if given is None:
            vector = self._vector(held, key, file=self._file)
        else:
            vector, held = jnp.asarray(given.vector)[None], held._replace(given=held.empty)
            if given.start is not None:
                start, moves = jnp.asarray(given.start)[None], Ddim(given.eta)
        table = step_table(moves, respaced(self.lengths(steps)[0]))
        scale = jnp.asarray([image.options.guidance], jnp.float32)
        return self._begin(held, vector, key, scale, start, table, side=self._file.decoder_side)

    def enter(self, stage: int, row: SlotRow, image: SlotImage) -> SlotRow:
        """Return an image at the first step of the upsampler, or at its last one."""
        steps = self._file.upsampler_steps
        levels = respaced(steps)
        if stage == 2:
            table = step_table(FIXED, levels.after(steps - 1))
            again = first_rows(row.state.x, row.state.keys, table)
            return row._replace(state=again._replace(estimates=row.state.estimates))
        before = Levels(levels.times[:-1], levels.alphas[:-1], levels.sigmas[:-1])
        return self._enter(row.state.x, image.key(), step_table(FIXED, before), side=self._file.side)


def _of_stage(keys: Key[Array, " B"], stage: int) -> Key[Array, " B"]:
    return jax.vmap(lambda key: jax.random.fold_in(key, stage))(keys)


def _hold(networks: KarloNetworks, ids: Int[Array, "1 T"], empty: Int[Array, "1 T"]) -> KarloTexts:
    return KarloTexts(*(read_text(networks.text, one, networks.prior.unit_vectors) for one in (ids, empty)))


def _vector(networks: KarloNetworks, texts: KarloTexts, keys: Key[Array, " 1"], *, file: KarloFile) -> Array:
    """Draw the image vector [1 E] of the prior."""
    return networks.prior.draw(*texts, _of_stage(keys, PRIOR)[:, None], file.prior)[:, 0]


def _begin(
    networks: KarloNetworks,
    texts: KarloTexts,
    vector: Float[Array, "1 E"],
    keys: Key[Array, " 1"],
    scale: Float[Array, " 1"],
    start: Float[Array, "1 h w 3"] | None,
    table: StepTable,
    *,
    side: int,
) -> SlotRow:
    own, project = _of_stage(keys, DECODER), networks.projection
    first = initial_noise(own, (side, side, 3)) if start is None else start
    nothing = project(project.without_image(1), texts.empty)
    return SlotRow(first_rows(first, own, table), KarloCondition(project(vector, texts.given), nothing, scale))


def _enter(
    networks: KarloNetworks, image: Float[Array, "1 h w 3"], keys: Key[Array, " 1"], table: StepTable, *, side: int
) -> SlotRow:
    """Begin to upsample an image of the decoder."""
    del networks
    own, shape = _of_stage(keys, UPSAMPLER), (side, side, 3)
    low = jax.image.resize(image.clip(-1, 1), (1, *shape), "bicubic")
    state = first_rows(initial_noise(own, shape), own, table)
    return SlotRow(state._replace(estimates=state.estimates.at[:, 0].set(low)), low)


def _decoder(networks: KarloNetworks, given: KarloCondition) -> Denoiser:
    def denoise(x: Array, level: NoiseLevel, condition: DecoderCondition) -> ModelOutput:
        return decoder_output(networks, x, level, condition)

    return classifier_free(denoise, given.given, given.nothing, Guidance(), given.scale)


def _upsampling(network: UNet, low: Float[Array, "B H W 3"]) -> Denoiser:
    return lambda x, level: ModelOutput(network(x, level.time, extra=low))


def _upsampler(networks: KarloNetworks, low: Float[Array, "B H W 3"]) -> Denoiser:
    return _upsampling(networks.upsampler, low)


def _last_upsampler(networks: KarloNetworks, low: Float[Array, "B H W 3"]) -> Denoiser:
    return _upsampling(networks.last_upsampler, low)


def _shown(networks: KarloNetworks, row: SlotRow, finished: bool) -> UInt8[Array, "B h w 3"]:
    del networks
    return to_uint8(((row.state.x if finished else row.state.estimates[:, 0]) + 1) / 2)
