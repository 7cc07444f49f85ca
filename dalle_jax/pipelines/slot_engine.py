"""Continuous batching: images that are sampled side by side, each of which leaves when it is finished.

The host decides which image is in which slot, and the devices hold everything else: B slots (sampling/slots.py) and X
prompts. A prompt is computed once and held as long as images of it wait. All programs have fixed shapes.

    engine = SlotEngine(network, slots=64, contexts=16, guided=True, window=1)
    (context,) = engine.hold(reader.read(["a red circle"]))
    inside = engine.insert([SlotImage(context, seed=0, candidate=n, options=options) for n in range(16)])
    engine.release(context)                # once no image of the prompt waits
    while engine.busy:
        if done := engine.advance():       # runs passes until an image is finished
            codes = engine.collect(done)   # [B I], on the devices; the slots are free again

A slot costs the same computation whether it is empty or not; a pass is run only if a slot has an image. Codes are those
of ``autoregressive.sample`` for the same prompt, seed, candidate and settings, whatever shares the slots with them.

B slots   M slots of a group   X held prompts   I codes of an image   R images of a call
"""

import copy
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Int, Key, Prompts, UInt
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.parallel.layout import by_rows
from dalle_jax.parallel.row_placement import put_rows
from dalle_jax.pipelines.batching import power_of_two
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.rows.slot_image import SlotImage
from dalle_jax.sampling.autoregressive import NegativePrompts, Settings, columns
from dalle_jax.sampling.slots import (
    NewImages,
    Prefilled,
    SlotState,
    advance,
    contexts_of,
    empty_slots,
    finished,
    insert,
    insert_contexts,
    pick_contexts,
    prefill,
    put_contexts,
)

EMPTY, NO_PROMPT = -1, -1
"""The position of a slot without an image, and the prompt of a group that never had one."""
NO_WINDOW = -1
"""The number of an image that is not a window of an edited one."""


class EngineState(NamedTuple):
    """The slots, and the X prompts that are held; if guided, rows X to 2X are their empty or negative prompts."""

    slots: SlotState
    held: Prefilled


class SlotRows(NamedTuple):
    """R images to insert, by slot, key and settings. ``numbers`` are those of windows, or ``NO_WINDOW``."""

    slots: Int[Array, " R"]
    seeds: UInt[Array, " R"]
    candidates: Int[Array, " R"]
    numbers: Int[Array, " R"]
    settings: Settings


class SlotEngine:
    """Slots of one transformer on the devices of its layout, and the host's account of what is in them.

    A group of M adjacent slots shares one context, which is stored and read once for all of them. It takes a new prompt
    once all of its slots are empty. Groups of one slot never wait; larger ones save memory and reading if prompts have
    many images.
    """

    def __init__(
        self,
        network: CompiledNetwork[CodeGenerator],
        *,
        slots: int,
        contexts: int,
        guided: bool,
        window: int = 1,
        group: int = 1,
    ) -> None:
        """Make ``slots`` empty slots in groups of ``group``, and room for ``contexts`` prompts.

        ``guided`` must be True if any image has a guidance other than 1. ``window`` is the number of codes of an image
        that a pass computes (parallel decoding).
        """
        if slots % group:
            raise ValueError(f"slots: expected a multiple of the group ({group}), got {slots}")
        self.slots, self.contexts, self.group, self.guided, self.window = slots, contexts, group, guided, window
        self._rows = min(slots, max(group, contexts))  # of a call of insert
        self._compile(network)
        self._begin()

    def another(self) -> "SlotEngine":
        """Return an engine of the same sizes with empty slots; both use the same compiled programs."""
        new = copy.copy(self)
        new._begin()
        return new

    def _begin(self) -> None:
        """Make the state on the devices, and the account of empty slots."""
        self._state: EngineState = self._new_state()
        self._reached: Array = self._state.slots.position + 0  # after all passes that were started
        self._places = list(range(self.contexts))  # without a prompt
        self._place_of: dict[int, int] = {}  # by the number of a held prompt
        self._next = 0
        self._position = np.full(self.slots, EMPTY, np.int64)  # the next code to sample, or EMPTY
        self._prompt_of = np.full(self.slots // self.group, NO_PROMPT, np.int64)  # by group

    def _compile(self, network: CompiledNetwork[CodeGenerator]) -> None:
        """Make the functions that make and change the state on the devices."""
        layout, guided, window, groups = network.layout, self.guided, self.window, self.slots // self.group
        sizes = Sizes(self.slots, groups, self.contexts, window, guided)
        decoder = network.changed(partial(_for_decoding, rows=sizes.rows))
        self._new_state = network.jit(partial(_new_state, sizes=sizes), sharded=True)
        state = self._new_state()
        shardings = jax.tree.map(lambda leaf: leaf.sharding, state)
        self._hold = network.jit_update(partial(_hold, sizes=sizes), shardings)
        self._insert = network.jit_update(partial(_insert, group=self.group, guided=guided), shardings)
        self._clear = network.jit_update(_clear, shardings)
        self._advance = decoder.jit_update(
            partial(_advance, window=window, guided=guided), (shardings, layout.replicated)
        )
        self._read = layout.jit(_read, out_shardings=layout.replicated)
        self.length: int = state.slots.codes.shape[1]
        shape = self._rows, self.length
        self._nothing_given = put_rows(layout, (np.zeros(shape, np.int32), np.zeros(shape, bool)))

    @property
    def busy(self) -> int:
        """The number of slots with an image, finished or not."""
        return int((self._position != EMPTY).sum())

    @property
    def free_contexts(self) -> int:
        """The number of prompts that can still be held."""
        return len(self._places)

    def clear(self) -> None:
        """Empty all slots, and release all prompts."""
        if self.busy:
            self.cancel(range(self.slots))
        for context in list(self._place_of):
            self.release(context)

    def hold(self, prompts: Prompts | np.ndarray, negative: Sequence[np.ndarray | None] | None = None) -> list[int]:
        """Compute prompts, rows of ``PromptReader.read``, and hold them; return a new number for each.

        ``negative`` has the rows that take the place of the empty prompt in guidance, or None for each.
        """
        count = len(prompts)
        if count > self.free_contexts:
            raise ValueError(f"prompts: expected at most {self.free_contexts} (contexts that are free), got {count}")
        rows = np.asarray(prompts)
        padding = min(power_of_two(count), self.contexts) - count
        places = [self._places.pop(0) for _ in range(count)]
        padded = np.concatenate([rows, np.repeat(rows[-1:], padding, axis=0)])
        replaced = None
        if self.guided and negative is not None and any(one is not None for one in negative):
            every = [row if one is None else one for row, one in zip(rows, negative, strict=True)]
            given = [one is not None for one in negative] + [False] * padding
            replaced = NegativePrompts(jnp.asarray(np.stack(every + every[-1:] * padding)), jnp.asarray(given))
        absent = [2 * self.contexts] * padding
        self._state = self._hold(self._state, np.array(places + absent, np.int32), padded, replaced)
        numbers = list(range(self._next, self._next + count))
        self._next += count
        self._place_of |= dict(zip(numbers, places, strict=True))
        return numbers

    def release(self, context: int) -> None:
        """Free the place of a held prompt. Its images that are in slots do not need it."""
        self._places.append(self._place_of.pop(context))

    def insert(self, images: Sequence[SlotImage]) -> list[int]:
        """Put as many of the first ``images`` into slots as there is room for, and return their slots."""
        found: list[int] = []
        while len(found) < len(images):
            slots, new = self._choose(images[len(found) :])
            if not slots:
                break
            self._put(images[len(found) : len(found) + len(slots)], slots, new)
            found += slots
        return found

    def _choose(self, images: Sequence[SlotImage]) -> tuple[list[int], dict[int, int]]:
        """Choose slots for a call: return them, and the held prompt of each group that gets a new one."""
        slots: list[int] = []
        new: dict[int, int] = {}
        for image in images[: self._rows]:
            free = self._position.reshape(-1, self.group) == EMPTY
            own = np.flatnonzero(free.any(axis=1) & (self._prompt_of == image.context))
            empty = np.flatnonzero(free.all(axis=1))
            if not own.size and (not empty.size or len(new) == max(1, self._rows // self.group)):
                break
            place = int((own if own.size else empty)[0])
            if not own.size:
                new[place], self._prompt_of[place] = self._place_of[image.context], image.context
            slots.append(place * self.group + int(np.flatnonzero(free[place])[0]))
            self._position[slots[-1]] = 1
        return slots, new

    def _put(self, images: Sequence[SlotImage], slots: list[int], new: dict[int, int]) -> None:
        """Put images into slots in one call, padded with images whose slot does not exist."""
        absent, options = self._rows - len(images), [image.options for image in images]
        groups = max(1, self._rows // self.group)
        places, held, chosen, seeds, candidates, numbers, *settings = jax.device_put([  # in one transfer
            np.array([*new] + [2 * self.slots] * (groups - len(new)), np.int32),
            np.array([*new.values()] + [0] * (groups - len(new)), np.int32),
            np.array(slots + [2 * self.slots] * absent, np.int32),
            np.array([one.seed for one in images] + [0] * absent, np.uint32),
            np.array([one.candidate for one in images] + [0] * absent, np.int32),
            np.array([NO_WINDOW if one.number is None else one.number for one in images] + [0] * absent, np.int32),
            *columns(options + options[-1:] * absent),
        ])  # fmt: skip
        rows = SlotRows(chosen, seeds, candidates, numbers, Settings(*settings))
        self._state = self._insert(self._state, places, held, rows, *self._given(images))

    def _given(self, images: Sequence[SlotImage]) -> tuple[Array, Array]:
        """Return the given codes of a call, and where they are kept."""
        if all(image.given is None for image in images):
            return self._nothing_given
        codes, keep = np.zeros((self._rows, self.length), np.int32), np.zeros((self._rows, self.length), bool)
        for row, image in enumerate(images):
            if image.given is not None:
                codes[row], keep[row] = image.given
        return jnp.asarray(codes), jnp.asarray(keep)

    def advance(self, passes: int | None = None) -> list[int]:
        """Run passes until an image is finished, at most ``passes``; return the slots of finished images.

        If some are finished already, no pass is run. With a window of 1 the host knows the positions, so that it does
        not wait for the devices.
        """
        inside = self._position != EMPTY
        if not inside.any() or (self._position >= self.length).any():
            return self._finished()
        left = self.length if passes is None else passes
        if self.window == 1:
            left = min(left, self.length - int(self._position[inside].max()))
        self._state, self._reached = self._advance(self._state, np.array(left, np.int32))
        if self.window == 1:
            self._position[inside] += left
        else:
            self._position[inside] = np.asarray(self._reached)[inside]
        return self._finished()

    def _finished(self) -> list[int]:
        return [int(slot) for slot in np.flatnonzero(self._position >= self.length)]

    def collect(self, slots: Sequence[int]) -> Int[Array, "B I"]:
        """Return the codes of finished images on the devices, in order, and free their slots.

        The result has a row for every slot of the engine; those after the last image are not used.
        """
        if any(self._position[slot] < self.length for slot in slots):
            raise ValueError(f"slots: expected those of finished images, got {list(slots)}")
        codes = self.codes_so_far(slots)
        self._position[list(slots)] = EMPTY
        return codes

    def codes_so_far(self, slots: Sequence[int]) -> Int[Array, "B I"]:
        """Return the codes of images that may be unfinished, as ``collect`` does; final before their ``position``."""
        return self._read(self._state.slots, self._padded(slots))

    def position(self, slot: int) -> int:
        """Return the next code to sample of the image in a slot."""
        return int(self._position[slot])

    def started(self) -> Array:
        """Return an array that is ready once the devices have run all passes up to now."""
        return self._reached

    def cancel(self, slots: Sequence[int]) -> None:
        """Free slots whatever is in them."""
        self._state = self._clear(self._state, self._padded(slots))
        self._position[list(slots)] = EMPTY

    def _padded(self, slots: Sequence[int]) -> Int[np.ndarray, " B"]:
        return np.array([*slots] + [self.slots] * (self.slots - len(slots)), np.int32)


class Sizes(NamedTuple):
    """The sizes of the arrays of an engine."""

    slots: int
    groups: int
    contexts: int
    window: int
    guided: bool

    @property
    def rows(self) -> int:
        """The number of codes that a pass computes."""
        return self.slots * self.window * (2 if self.guided else 1)


def _for_decoding(generator: CodeGenerator, rows: int) -> CodeGenerator:
    return cast(CodeGenerator, generator.for_decoding(rows))


def _new_state(generator: CodeGenerator, *, sizes: Sizes) -> EngineState:
    """Create empty slots, and held prompts of zeros."""
    slots, groups, contexts, window, guided = sizes
    decoder = _for_decoding(generator, sizes.rows)

    def blank(count: int) -> Prefilled:
        shapes = jax.eval_shape(lambda text: prefill(generator, text, guided=guided), generator.prompt_spec(count))
        return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)

    empty = empty_slots(decoder, blank(groups), slots=slots, window=window, guided=guided, adjacent=True)
    rows = jax.tree.map(by_rows, empty._replace(cache=()))
    return EngineState(rows._replace(cache=empty.cache), contexts_of(decoder, blank(contexts), window=window))


def _hold(
    generator: CodeGenerator,
    state: EngineState,
    places: Int[Array | np.ndarray, " P"],
    text: Prompts | np.ndarray,
    negative: NegativePrompts | None,
    *,
    sizes: Sizes,
) -> EngineState:
    """Compute prompts and put them into places; a place of twice the number of contexts is none."""
    new = prefill(generator, jnp.asarray(text), negative, guided=sizes.guided)
    new = contexts_of(_for_decoding(generator, sizes.rows), new, window=sizes.window)
    return state._replace(held=put_contexts(state.held, jnp.asarray(places), new, guided=sizes.guided))


def _insert(
    generator: CodeGenerator,
    state: EngineState,
    groups: Int[Array, " G"],
    contexts: Int[Array, " G"],
    rows: SlotRows,
    codes: Int[Array, "R I"],
    keep: Bool[Array, "R I"],
    *,
    group: int,
    guided: bool,
) -> EngineState:
    """Copy held prompts into groups, and put images into slots."""
    del generator
    slots = insert_contexts(state.slots, groups, pick_contexts(state.held, contexts, guided=guided), guided=guided)
    keys = jax.vmap(_image_key)(rows.seeds, rows.candidates, rows.numbers)
    images = NewImages(rows.slots // group, keys, rows.settings, codes, keep)
    return state._replace(slots=insert(slots, rows.slots, images, guided=guided))


def _image_key(seed: UInt[Array, ""], candidate: Int[Array, ""], number: Int[Array, ""]) -> Key[Array, ""]:
    """Return the key of an image, or that of a window of it."""
    key = jax.random.fold_in(jax.random.key(seed), candidate)
    return jnp.where(number == NO_WINDOW, key, jax.random.fold_in(key, number))


def _advance(
    generator: CodeGenerator, state: EngineState, most: Int[Array | np.ndarray, ""], *, window: int, guided: bool
) -> tuple[EngineState, Int[Array, " B"]]:
    """Run passes until an unfinished image is finished, at most ``most``; return the positions too."""
    before = finished(state.slots)

    def going(carry: tuple[SlotState, Array]) -> Array:
        return (carry[1] < most) & (finished(carry[0]) == before).all() & ~before.all()

    def one_pass(carry: tuple[SlotState, Array]) -> tuple[SlotState, Array]:
        return advance(generator, carry[0], window=window, guided=guided), carry[1] + 1

    slots = jax.lax.while_loop(going, one_pass, (state.slots, jnp.int32(0)))[0]
    return state._replace(slots=slots), slots.position


def _clear(generator: CodeGenerator, state: EngineState, slots: Int[Array | np.ndarray, " B"]) -> EngineState:
    """Empty slots."""
    del generator
    position = state.slots.position.at[slots].set(state.slots.codes.shape[1], mode="drop")
    return state._replace(slots=state.slots._replace(position=position))


def _read(state: SlotState, slots: Int[Array | np.ndarray, " B"]) -> Int[Array, "B I"]:
    """Return the codes of slots."""
    return state.codes[slots]
