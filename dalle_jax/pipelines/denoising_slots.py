"""Continuous batching of an unCLIP of codes: images at steps of their own, which join and leave one by one.

One program of a fixed shape computes the next step of all B slots, each at its own time. An image's noise depends on
its key alone, so the codes are those of ``Unclip`` up to rounding, and the same whatever shares the slots.

B slots   I places of the grid   c code width   T text length   E embedding   S most steps
"""

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.diffusion.code_vectors import guided_logits, signal_shares
from dalle_jax.diffusion.levels import initial_noise, per_row
from dalle_jax.models.code_denoiser import CodeDenoiserConfig, Guide
from dalle_jax.models.priors.prior import PriorOptions
from dalle_jax.parallel.layout import by_rows
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.embedding_pipeline import PromptIds, Sees, UnclipNetworks, embed_prompts, given_inputs
from dalle_jax.pipelines.slot_engine import SlotImage
from dalle_jax.sampling.autoregressive import image_keys

MOST_STEPS = 256
"""Largest number of steps of an image."""
EMPTY = -1


class DenoisingState(NamedTuple):
    """The images of B slots. ``step`` is the next one, of ``steps``; ``codes`` are those predicted by the last one."""

    x: Float[Array, "B I c"]
    guide: Guide
    scale: Float[Array, " B"]
    shares: Float[Array, "B S"]
    step: Int[Array, " B"]
    steps: Int[Array, " B"]
    codes: Int[Array, "B I"]


class HeldPrompt(NamedTuple):
    """A prompt's token ids, and the steps of its images."""

    ids: PromptIds
    steps: int


class DenoisingSlots:
    """The slots on the devices, and the host's account of what is in them; the methods are those of ``SlotEngine``."""

    def __init__(
        self, network: CompiledNetwork[UnclipNetworks], config: CodeDenoiserConfig, *, slots: int, sees: Sees,
        prior: PriorOptions,
    ) -> None:  # fmt: skip
        """Make ``slots`` empty slots for the decoder of ``config``."""
        self.slots = slots
        places, texts = config.grid[0] * config.grid[1], jnp.zeros((slots, config.text_length), jnp.int32)
        guide = Guide(texts, jnp.zeros((slots, config.embed_width)), jnp.zeros(slots, bool))
        empty = DenoisingState(
            jnp.zeros((slots, places, config.code_width)), guide, jnp.ones(slots), jnp.zeros((slots, MOST_STEPS)),
            jnp.zeros(slots, jnp.int32), jnp.zeros(slots, jnp.int32), jnp.zeros((slots, places), jnp.int32),
        )  # fmt: skip
        self._state: DenoisingState = network.layout.jit(partial(jax.tree.map, by_rows))(empty)
        shardings = jax.tree.map(lambda leaf: leaf.sharding, self._state)
        self._insert = network.jit_update(partial(_insert, sees=sees, options=prior), shardings)
        self._advance = network.jit_update(_advance, shardings)
        self._read = network.layout.jit(_read, out_shardings=network.layout.replicated)
        self._left = np.full(slots, EMPTY, np.int64)  # steps that an image still needs, or EMPTY
        self._steps = np.zeros(slots, np.int64)
        self._held: dict[int, HeldPrompt] = {}
        self._next = 0

    @property
    def free_contexts(self) -> int:
        """The number of prompts that can still be held: a prompt is a few token ids."""
        return self.slots

    def hold_ids(self, ids: PromptIds, steps: int) -> int:
        """Hold the token ids of a prompt [1 T]; return its number."""
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"steps: expected between 1 and {MOST_STEPS}, got {steps}")
        self._held[self._next] = HeldPrompt(ids, steps)
        self._next += 1
        return self._next - 1

    def release(self, context: int) -> None:
        """Forget a prompt."""
        del self._held[context]

    def insert(self, images: Sequence[SlotImage]) -> list[int]:
        """Put as many of the first ``images`` into slots as there is room for, and return their slots."""
        free = np.flatnonzero(self._left == EMPTY)[: len(images)]
        for slot, image in zip(free, images, strict=False):
            held = self._held[image.context]
            shares = np.full((1, MOST_STEPS), 1.0, np.float32)
            shares[0, : held.steps] = signal_shares(held.steps)
            keys = image_keys(jnp.asarray([image.seed], jnp.uint32), 1, first=image.candidate)
            self._state = self._insert(
                self._state, jnp.asarray([slot], jnp.int32), held.ids, keys,
                jnp.asarray([image.options.guidance], jnp.float32), jnp.asarray(shares), jnp.asarray([held.steps]),
            )  # fmt: skip
            self._left[slot] = self._steps[slot] = held.steps
        return [int(one) for one in free]

    def advance(self, passes: int) -> list[int]:
        """Run at most ``passes`` steps, until an image is finished; return the slots of finished images."""
        inside = self._left != EMPTY
        count = min(passes, int(self._left[inside].min())) if inside.any() else 0
        for _ in range(count):
            self._state = self._advance(self._state)
        self._left[inside] -= count
        return [int(slot) for slot in np.flatnonzero(self._left == 0)]

    def collect(self, slots: Sequence[int]) -> Int[Array, "B I"]:
        """Return the codes of finished images, and free their slots. Rows after the last image are not used."""
        codes = self.codes_so_far(slots)
        self._left[list(slots)] = EMPTY
        return codes

    def codes_so_far(self, slots: Sequence[int]) -> Int[Array, "B I"]:
        """Return the codes that the last step predicted, as ``collect`` does."""
        return self._read(self._state, self._padded(slots))

    def position(self, slot: int) -> int:
        """Return the number of steps that the image in a slot has had."""
        return int(self._steps[slot] - self._left[slot])

    def started(self) -> Array:
        """Return an array that is ready once the devices have run all steps up to now."""
        return self._state.step + 0

    def cancel(self, slots: Sequence[int]) -> None:
        """Free slots; what is in them is computed on until the next image takes them."""
        self._left[list(slots)] = EMPTY

    def _padded(self, slots: Sequence[int]) -> Int[np.ndarray, " B"]:
        return np.array([*slots] + [0] * (self.slots - len(slots)), np.int32)


def _read(state: DenoisingState, slots: Int[Array | np.ndarray, " B"]) -> Int[Array, "B I"]:
    """Return the codes of slots."""
    return state.codes[slots]


def _insert(
    networks: UnclipNetworks,
    state: DenoisingState,
    slot: Int[Array, " 1"],
    ids: PromptIds,
    keys: Key[Array, "1 1"],
    scale: Float[Array, " 1"],
    shares: Float[Array, "1 S"],
    steps: Int[Array, " 1"],
    *,
    sees: Sees,
    options: PriorOptions,
) -> DenoisingState:
    """Put an image into a slot: draw its embedding and its noise from its key, as ``Unclip`` does."""
    guide = given_inputs(ids, embed_prompts(networks, ids, keys, options), sees)
    noise_keys = jax.vmap(lambda key: jax.random.fold_in(key, 1))(keys.reshape(-1))
    noise = initial_noise(noise_keys, state.x.shape[1:])
    zero, codes = jnp.zeros(1, jnp.int32), jnp.zeros((1, state.codes.shape[1]), jnp.int32)
    new = DenoisingState(noise, guide, scale, shares, zero, steps.astype(jnp.int32), codes)
    return jax.tree.map(lambda old, one: old.at[slot].set(one.astype(old.dtype)), state, new)


def _advance(networks: UnclipNetworks, state: DenoisingState) -> DenoisingState:
    """Compute the next step of all images; those that are finished do not change.

    It is ``sample_codes`` with a time for each row: Euler's method on the straight path through the mean predicted
    vector, and the most likely codes.
    """
    denoiser = networks.decoder
    rows, active = jnp.arange(len(state.step)), state.step < state.steps
    time = state.shares[rows, jnp.maximum(jnp.minimum(state.step, state.steps - 1), 0)]
    later = state.shares[rows, jnp.maximum(jnp.minimum(state.step + 1, state.steps - 1), 0)]
    logits = guided_logits(denoiser, state.x, time, state.guide, state.guide.nothing(), state.scale)
    x0 = jnp.matmul(jax.nn.softmax(logits, axis=-1), denoiser.code_vectors, precision=jax.lax.Precision.HIGHEST)
    noise = (state.x - per_row(time, x0) * x0) / per_row(1 - time, x0)
    x = state.x + per_row((1 - later) - (1 - time), x0) * (noise - x0)
    codes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
    return state._replace(
        x=jnp.where(active[:, None, None], x, state.x),
        codes=jnp.where(active[:, None], codes, state.codes),
        step=state.step + active,
    )
