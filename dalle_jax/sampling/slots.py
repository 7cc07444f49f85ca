"""A slot engine: images that are sampled side by side at positions of their own, several codes per pass.

Each of B slots holds one image. An image that is finished leaves its slot, and the next one takes it (continuous
batching). The state also holds X contexts, the prompts' keys and values; a slot has the number of its image's context,
so that images of a prompt share it.

One pass computes the logits of a window of W codes of every row, from guesses of all but the first input. A code is
final if all its inputs in the window were guessed right. Since the noise of a code depends on its image and
position alone, the codes are those of ``autoregressive.sample``, in fewer passes: parallel decoding by Jacobi iteration
(Wiggers and Hoogeboom 2020, arXiv 2002.09928). The guess of a code is its latest drawing. A code that was not drawn yet
is guessed to equal the last one that was, or by forecasting heads if the transformer has them
(models/heads/forecast_heads.py). W = 1 is plain sampling in slots.

    new = prefill(generator, text, guided=True)                     # once per prompt
    state = empty_slots(generator, new, slots=16, window=8, guided=True)  # with the contexts of new
    state = insert(state, slots, images, guided=True)               # slots [R]: free ones
    while ...:
        state = advance(generator, state, window=8, guided=True)
        done = finished(state)                                      # [B]; their codes are state.codes

All functions are pure and may be jitted. ``sample_in_slots`` runs the whole loop in one program.
"""

import functools
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int, Key, Prompts, PyTree
from dalle_jax.parallel.axes import BATCH, CANDIDATES
from dalle_jax.parallel.layout import constrain
from dalle_jax.sampling.autoregressive import (
    CachedDecoder,
    GivenCodes,
    NegativePrompts,
    Settings,
    draw,
    guide,
    prefill_guided,
)
from dalle_jax.sampling.forecasts import Forecast, with_guesses


@runtime_checkable
class SlotDecoder(CachedDecoder, Protocol):
    """A cached decoder whose rows have positions of their own, and which decodes a window of codes per pass."""

    def slots(self, cache: PyTree, window: int, rows: int) -> PyTree:
        """Return the cache of ``prefill`` with room for all codes of ``rows`` images.

        The first axis of arrays is contexts, or rows for the room of codes. An image that takes a row needs no change
        of the cache.
        """
        ...

    def for_decoding(self, rows: int) -> "SlotDecoder":
        """Return the decoder, or a copy whose weights are laid out for decoding ``rows`` codes at once."""
        ...

    def window_outputs(
        self,
        previous: Int[Array, "B W"],
        position: Int[Array, " B"],
        cache: PyTree,
        context: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B W D"], PyTree]:
        """Return the outputs of the last norm at codes ``position`` (>= 1) to ``position + W - 1``, and the new cache.

        ``context`` is the context of each row; None if adjacent rows share contexts (layers/slot_cache.py).
        ``previous`` are the codes before each of them: ``position - 1`` to ``position + W - 2``. The output at a code
        does not depend on the codes after it, nor on its place in the window.
        """
        ...

    def code_logits(self, outputs: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Return the logits of the codes at which the outputs of the last norm are."""
        ...

    def forecast(self, outputs: Float[Array, "B D"], codes: Int[Array, " B"]) -> Forecast | None:
        """Guess the codes after ``codes``, at which the outputs are; None for a decoder without forecasting heads."""
        ...


class Prefilled(NamedTuple):
    """Prompts that are computed once: the logits of code 0 and the cache. If guided, the empty prompt has rows P on."""

    logits: Float[Array, "Q K"]
    cache: PyTree


class NewImages(NamedTuple):
    """R images to insert: the numbers of their prompts' contexts, noise keys, settings and given codes."""

    prompts: Int[Array, " R"]
    keys: Key[Array, " R"]
    settings: Settings
    codes: Int[Array, "R I"]
    keep: Bool[Array, "R I"]


class SlotState(NamedTuple):
    """The images of B slots, and X contexts.

    ``codes`` are final before ``position`` and where ``keep``, else guesses. ``position`` is the next code to draw; it
    is I in a slot that is finished or was never filled. ``context`` is the number of each slot's context; None if
    adjacent slots share contexts. ``first`` are the logits of code 0. If guided, rows B to 2B of the cache and the
    second half of the contexts are the empty prompt's.
    """

    codes: Int[Array, "B I"]
    position: Int[Array, " B"]
    keep: Bool[Array, "B I"]
    keys: Key[Array, " B"]
    settings: Settings
    context: Int[Array, " B"] | None
    first: Float[Array, "X K"]
    cache: PyTree


def prefill(
    generator: SlotDecoder, text: Prompts, negative: NegativePrompts | None = None, *, guided: bool
) -> Prefilled:
    """Compute the prompts, and the empty or negative prompt of each if ``guided``."""
    return Prefilled(*(prefill_guided(text, negative, generator, 1) if guided else generator.prefill(text, 1)))


def empty_slots(
    generator: SlotDecoder, prefilled: Prefilled, *, slots: int, window: int, guided: bool, adjacent: bool = False
) -> SlotState:
    """Create B empty slots with the contexts of ``prefilled``.

    If ``adjacent``, slot b always has images of context b // (B / X), of the X without the empty prompts.
    """
    length = generator.grid[0] * generator.grid[1]
    return SlotState(
        codes=jnp.zeros((slots, length), jnp.int32),
        position=jnp.full((slots,), length, jnp.int32),
        keep=jnp.zeros((slots, length), bool),
        keys=jax.vmap(jax.random.key)(jnp.zeros((slots,), jnp.uint32)),
        settings=Settings.of(slots),
        context=None if adjacent else jnp.zeros((slots,), jnp.int32),
        first=prefilled.logits,
        cache=generator.slots(prefilled.cache, window, slots * (2 if guided else 1)),
    )


def contexts_of(generator: SlotDecoder, prefilled: Prefilled, *, window: int) -> Prefilled:
    """Return prefilled prompts with a cache that ``put_contexts`` takes; it has no room for codes."""
    return prefilled._replace(cache=generator.slots(prefilled.cache, window, 0))


def pick_contexts(contexts: Prefilled, places: Int[Array, " P"], *, guided: bool) -> Prefilled:
    """Return some of the contexts of ``contexts_of``."""
    rows = _with_empty_contexts(contexts.logits, places, guided)
    return jax.tree.map(lambda leaf: leaf[rows] if leaf.shape[0] else leaf, contexts)


def put_contexts(old: Prefilled, places: Int[Array, " P"], new: Prefilled, *, guided: bool) -> Prefilled:
    """Replace contexts by those of ``new``. The first of twice the number of contexts and later places do not exist."""
    rows = _with_empty_contexts(old.logits, places, guided)

    def replace(leaf: Array, changed: Array) -> Array:
        return leaf.at[rows].set(changed, mode="drop") if changed.shape[0] else leaf

    return jax.tree.map(replace, old, new)


def _with_empty_contexts(logits: Float[Array, "X K"], places: Int[Array, " P"], guided: bool) -> Int[Array, " Q"]:
    """Return the rows of contexts, and after them those of their empty prompts if ``guided``."""
    return jnp.concatenate([places, places + logits.shape[0] // 2]) if guided else places


def insert_contexts(state: SlotState, places: Int[Array, " P"], new: Prefilled, *, guided: bool) -> SlotState:
    """Replace contexts of slots (``put_contexts``). No unfinished slot may have an image of them."""
    first, cache = put_contexts(Prefilled(state.first, state.cache), places, new, guided=guided)
    return state._replace(first=first, cache=cache)


def insert(state: SlotState, slots: Int[Array, " R"], images: NewImages, *, guided: bool) -> SlotState:
    """Put new images into slots and draw their code 0. An image whose slot is B or more is left out."""
    logits = state.first[images.prompts]  # [R K]
    if guided:
        empty = state.first[images.prompts + state.first.shape[0] // 2]
        logits = guide(logits[:, None], empty[:, None], images.settings.guidance[:, None])[:, 0]
    noise = _noise(images.keys, jnp.zeros_like(slots)[:, None], logits.shape[-1])  # [R 1 K]
    first = draw(logits[:, None], noise, images.settings)[:, 0]
    first = jnp.where(images.keep[:, 0], images.codes[:, 0], first)
    codes = jnp.where(images.keep, images.codes, first[:, None])
    context = None if state.context is None else images.prompts
    new = (codes, jnp.ones_like(slots), images.keep, images.keys, images.settings, context)
    return SlotState(
        *jax.tree.map(lambda old, one: old.at[slots].set(one, mode="drop"), state[: len(new)], new), *state[len(new) :]
    )


def _noise(keys: Key[Array, " B"], positions: Int[Array, "B W"], size: int) -> Float[Array, "B W K"]:
    """Draw the Gumbel noise of positions of images, as ``autoregressive.sample`` does."""

    def of_one(key: Key[Array, ""], position: Int[Array, ""]) -> Float[Array, " K"]:
        return jax.random.gumbel(jax.random.fold_in(key, position), (size,))

    return jax.vmap(jax.vmap(of_one, (None, 0)))(keys, positions)


def finished(state: SlotState) -> Bool[Array, " B"]:
    """Return the slots whose image is complete, and those that were never filled."""
    return state.position >= state.codes.shape[1]


def advance(
    generator: SlotDecoder, state: SlotState, *, window: int, guided: bool, most: int | Int[Array, ""] | None = None
) -> SlotState:
    """Compute one pass: draw a window of codes of each unfinished image and accept those that are final.

    At least one code is accepted, and at most ``most``. Finished and empty slots do not change.
    """
    length, rows = state.codes.shape[1], jnp.arange(state.codes.shape[0])[:, None]
    start = jnp.minimum(state.position, length - 1)  # the pass of a finished slot is computed and not used
    places = start[:, None] + jnp.arange(window)  # [B W]
    inside = jnp.minimum(places, length - 1)
    previous, guesses = state.codes[rows, jnp.minimum(places - 1, length - 1)], state.codes[rows, inside]
    copies = 2 if guided else 1  # for the prompt, and for the empty one
    context = state.context
    if guided and context is not None:
        context = jnp.concatenate([context, context + state.first.shape[0] // 2])
    previous, starts = jnp.tile(previous, (copies, 1)), jnp.tile(start, copies)
    outputs, cache = generator.window_outputs(previous, starts, state.cache, context)
    logits = generator.code_logits(outputs)
    if guided:
        conditional, unconditional = jnp.split(logits, 2)
        logits = guide(conditional, unconditional, state.settings.guidance_at(places, length))
    noise_of = functools.partial(_noise, state.keys, size=logits.shape[-1])
    drawn = draw(logits, noise_of(places), state.settings)
    drawn = jnp.where(state.keep[rows, inside], guesses, drawn)
    right = jnp.cumprod(drawn[:, :-1] == guesses[:, :-1], axis=1).sum(axis=1)
    accepted = jnp.minimum(1 + right, window if most is None else most)
    active = ~finished(state)
    ahead = start[:, None] + jnp.arange(2 * window - 1)  # the codes that the next window may reach
    changed = active[:, None] & ~state.keep[rows, jnp.minimum(ahead, length - 1)]
    found = with_guesses(generator.forecast, noise_of, state.settings, places, outputs[: len(drawn)], drawn, accepted)
    codes = constrain(state.codes.at[rows, jnp.where(changed, ahead, length)].set(found, mode="drop"), BATCH, None)
    position = jnp.where(active, jnp.minimum(state.position + accepted, length), state.position)
    return state._replace(codes=codes, position=position, cache=cache)


class SlotSamples(NamedTuple):
    """The codes of all images, and the passes of the transformer that they took together."""

    codes: Int[Array, "P M I"]
    passes: Int[Array, ""]


class _Run(NamedTuple):
    """The loop of ``sample_in_slots``: ``number`` is the image of each slot, n or more in a slot without one."""

    state: SlotState
    number: Int[Array, " B"]
    inserted: Int[Array, ""]
    codes: Int[Array, "n I"]
    passes: Int[Array, ""]


def sample_in_slots(
    generator: SlotDecoder,
    text: Prompts,
    keys: Key[Array, "P M"],
    settings: Settings,
    given: GivenCodes | None = None,
    negative: NegativePrompts | None = None,
    *,
    guided: bool,
    window: int,
    slots: int | None = None,
    most: int | Int[Array, ""] | None = None,
) -> SlotSamples:
    """Sample the codes of M images per prompt, as ``autoregressive.sample`` does, in fewer passes.

    ``slots`` images at once, by default all. A finished image makes room for the next one. ``most`` is the largest
    number of codes that a pass accepts of one image, by default the window.
    """
    prompts, candidates = keys.shape
    count, length = prompts * candidates, generator.grid[0] * generator.grid[1]
    slots = count if slots is None else min(slots, count)
    images = _images(keys, settings, given, length)
    new = prefill(generator, text, negative, guided=guided)
    generator = generator.for_decoding(slots * window * (2 if guided else 1))

    def fill(state: SlotState, slot: Int[Array, " B"], number: Int[Array, " B"]) -> SlotState:
        rows = jax.tree.map(lambda leaf: leaf[jnp.minimum(number, count - 1)], images)
        return insert(state, slot, rows, guided=guided)

    def leave(run: _Run) -> _Run:
        """Keep the codes of finished images, and put the next images into their slots."""
        leaving = finished(run.state) & (run.number < count)
        codes = run.codes.at[jnp.where(leaving, run.number, count)].set(run.state.codes, mode="drop")
        number = jnp.where(leaving, run.inserted + jnp.cumsum(leaving) - 1, run.number)
        slot = jnp.where(leaving & (number < count), jnp.arange(slots), slots)
        return _Run(fill(run.state, slot, number), number, run.inserted + leaving.sum(), codes, run.passes)

    def one_pass(run: _Run) -> _Run:
        state = advance(generator, run.state, window=window, guided=guided, most=most)
        run = run._replace(state=state, passes=run.passes + 1)
        if slots == count:
            return run
        return jax.lax.cond(jnp.any(finished(state) & (run.number < count)), leave, lambda run: run, run)

    def unfinished(run: _Run) -> Array:
        return jnp.any(~finished(run.state)) if slots == count else jnp.any(run.number < count)

    number = jnp.arange(slots)
    adjacent = slots == count  # no slot ever gets another image
    empty = empty_slots(generator, new, slots=slots, window=window, guided=guided, adjacent=adjacent)
    state = fill(empty, number, number)
    start = _Run(state, number, jnp.int32(slots), jnp.zeros((count, length), jnp.int32), jnp.int32(0))
    run = jax.lax.while_loop(unfinished, one_pass, start)
    codes = run.state.codes if slots == count else run.codes
    codes = constrain(codes.reshape(prompts, candidates, length), BATCH, CANDIDATES, None)
    return SlotSamples(codes, run.passes)


def _images(keys: Key[Array, "P M"], settings: Settings, given: GivenCodes | None, length: int) -> NewImages:
    """List the images of all prompts, P * M of them."""
    prompts, candidates = keys.shape
    codes, keep = jnp.zeros((prompts * candidates, length), jnp.int32), jnp.zeros((prompts, length), bool)
    if given is not None:
        codes, keep = given.codes.reshape(-1, length).astype(jnp.int32), given.keep
    number = jnp.repeat(jnp.arange(prompts), candidates)
    settings, keep = jax.tree.map(lambda leaf: leaf[number], (settings, keep))
    return NewImages(number, keys.reshape(-1), settings, codes, keep)
