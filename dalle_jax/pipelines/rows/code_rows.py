"""The rows of an unCLIP of codes, as ``DenoisingSlots`` calls them.

B rows   I places of the grid   E embedding   T text length
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.diffusion.code_vectors import KnownCodes, expected_vectors, guided_logits, signal_shares
from dalle_jax.diffusion.continuous import straight_levels
from dalle_jax.diffusion.latent_edit import keep_known, paste
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.row_steps import StepTable, first_rows, step_table
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.pipelines.embedding_pipeline import PromptIds, Sees, UnclipNetworks, given_inputs
from dalle_jax.pipelines.rows.denoise_stage import DenoiseStage, SlotRow, StageProgram
from dalle_jax.pipelines.rows.denoising_slots import MOST_STEPS
from dalle_jax.pipelines.rows.prompt_vectors import HeldTexts, PromptVectors
from dalle_jax.pipelines.rows.slot_image import GivenRow, SlotImage
from dalle_jax.pipelines.unclip import Unclip


class CodeCondition(NamedTuple):
    """The conditions of rows, and the time of the last forward, which takes the most likely codes."""

    guide: Guide
    scale: Float[Array, " B"]
    known: KnownCodes
    last: Float[Array, " B"]


class CodeRows:
    """The one stage of an unCLIP of codes: Euler's steps, or DDIM's for a vector with its own noise."""

    def __init__(self, pipeline: Unclip, together: int) -> None:
        self._pipeline, network = pipeline, pipeline.network
        self._vectors = PromptVectors(pipeline, network)
        self._begin = network.jit(_begin, static_argnames=("sees",))
        stage = DenoiseStage(_denoiser, Parameterization("x0"), True, _codes)
        self.stages: Sequence[StageProgram[UnclipNetworks]] = [StageProgram(network, stage, together)]

    def lengths(self, steps: int | None) -> list[int]:
        """Return the moves between the times of the forwards; an image of one forward has one that changes nothing."""
        return [max(1, (self._pipeline.steps if steps is None else steps) - 1)]

    def hold(self, prompt: str) -> HeldTexts:
        """Compute the text that the prior reads."""
        return self._vectors.hold(prompt)

    def begin(self, held: HeldTexts, image: SlotImage, steps: int | None) -> SlotRow:
        """Return an image at its first step."""
        found, key = self._vectors.of(held, image), image.key()
        count = self._pipeline.steps if steps is None else steps
        shares = signal_shares(count) if count > 1 else np.zeros(2)
        start = None if image.vector is None else image.vector.start
        eta = 0.0 if image.vector is None or start is None or count == 1 else image.vector.eta
        table = step_table(Ddim(eta), straight_levels(shares), room=MOST_STEPS)  # at eta 0 Euler's steps
        places = self._pipeline.grid[0] * self._pipeline.grid[1]
        given = image.given or GivenRow(np.zeros(places, np.int32), np.zeros(places, bool))
        known = KnownCodes(*(jnp.asarray(one)[None] for one in given))
        return self._begin(
            held.ids, found.vector, key, jnp.asarray([image.options.guidance], jnp.float32), known,
            None if start is None else jnp.asarray(start)[None], table, jnp.asarray(shares[-1:], jnp.float32),
            sees=found.sees,
        )  # fmt: skip

    def enter(self, stage: int, row: SlotRow, image: SlotImage) -> SlotRow:
        """Raise ValueError: there is no second stage."""
        raise ValueError(f"stage: expected 0, the only one, got {stage}")


def _begin(
    networks: UnclipNetworks,
    ids: PromptIds,
    vector: Float[Array, "1 E"],
    keys: Key[Array, " 1"],
    scale: Float[Array, " 1"],
    known: KnownCodes,
    start: Float[Array, "1 I c"] | None,
    table: StepTable,
    last: Float[Array, " 1"],
    *,
    sees: Sees,
) -> SlotRow:
    noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys)
    shape = known.codes.shape[1], networks.decoder.code_vectors.shape[1]
    first = initial_noise(noise_keys, shape) if start is None else start
    guide = given_inputs(ids, vector[:, None], sees)
    return SlotRow(first_rows(first, noise_keys, table), CodeCondition(guide, scale, known, last))


def _denoiser(networks: UnclipNetworks, given: CodeCondition) -> Denoiser:
    vectors, known = networks.decoder.code_vectors, given.known
    expected = expected_vectors(networks.decoder, given.guide, given.scale, given.guide.nothing())
    return keep_known(expected, vectors[known.codes], known.keep[..., None], "x0")


def _codes(networks: UnclipNetworks, row: SlotRow, finished: bool) -> Int[Array, "B I"]:
    """Predict the codes of rows by one forward, at the time of their next step, or at the last time."""
    state, given = row
    time = given.last if finished else state.table.level.time[jnp.arange(len(state.step)), state.step]
    logits = guided_logits(networks.decoder, state.x, time, given.guide, given.guide.nothing(), given.scale)
    codes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return paste(codes, given.known.codes, given.known.keep)
