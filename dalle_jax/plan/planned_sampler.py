"""The sampling of codes, planned for devices that this machine does not have: memory, cache and a bound of its speed.

The program is the one that ``sample`` runs (pipelines/text_to_image.py): the same function, with weights in their
compute dtype, and weights and rows sharded by the same rules.
"""

import dataclasses
import itertools
import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, PyTree
from dalle_jax.config.errors import UserError
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.slot_cache import SlotCache
from dalle_jax.models.code_generator import CachedGenerator, CodeGenerator, prepare_for_sampling
from dalle_jax.parallel.axes import BATCH, HEADS
from dalle_jax.parallel.layout import Layout, portable_trace
from dalle_jax.parallel.row_placement import row_sharding
from dalle_jax.parallel.rules import Rules
from dalle_jax.plan.compile import Program, Say, bytes_on_a_device, compile_program, laid_out
from dalle_jax.sampling.autoregressive import GivenCodes, Settings, sample, stages
from dalle_jax.train.task import Task

MOST_COMPILATIONS = 4
"""Largest number of compilations in the search for the largest batch."""


class CacheBytes(NamedTuple):
    """The bytes of the key-value cache at its full size, over all devices, with guidance."""

    per_prompt: int
    per_image: int


class StepBytes(NamedTuple):
    """The mean bytes that a device reads in the step of one code."""

    weights: float
    cache: float


@dataclass(frozen=True)
class SampledBatch:
    """A number of prompts, and of images of each, that are sampled in one call."""

    prompts: int
    candidates: int

    @property
    def images(self) -> int:
        """The number of images."""
        return self.prompts * self.candidates


class PlannedSampler:
    """The transformer that a task trains, sampled with guidance on a layout of devices that are not present."""

    def __init__(self, task: Task, layout: Layout) -> None:
        """Raise ``UserError`` if the task does not train a code generator, or the mesh does not divide its sizes."""
        self.layout = layout

        def build() -> CodeGenerator:
            generator = task.init(nnx.Rngs(0))
            if not isinstance(generator, CodeGenerator):
                found = type(generator).__name__
                raise UserError(f"--sample: expected a task that trains a code generator, got a {found}")
            prepare_for_sampling(generator)
            return generator

        self.generator = nnx.eval_shape(build)
        graph, state = nnx.split(self.generator)
        self._graph: nnx.GraphDef[CodeGenerator] = graph
        self._state = _laid_out(state, layout)

    @property
    def weight_bytes(self) -> int:
        """The bytes of the weights on one device."""
        return bytes_on_a_device(self._state)

    def compile(self, batch: SampledBatch) -> Program:
        """Compile the sampling of a batch."""
        return compile_program(self.trace(batch))

    def trace(self, batch: SampledBatch) -> jax.stages.Traced:
        """Trace ``compile`` without compiling it. Raise ``UserError`` if the devices cannot share the images."""
        parts = self.layout.parts(BATCH)
        if batch.prompts % parts and batch.candidates % parts:
            raise UserError(
                f"--sample: expected a multiple of {parts} prompts, or of {parts} candidates, since {parts} devices "
                f"share them, got {batch.prompts} prompts with {batch.candidates} candidates"
            )
        graph = self._graph

        def run(state: PyTree, text: Array, keys: Array, settings: Settings, given: GivenCodes) -> Array:
            return sample(nnx.merge(graph, state), text, keys, settings, given, guided=True)

        return self.layout.jit(run).trace(self._state, *self._arguments(batch))

    def _arguments(self, batch: SampledBatch) -> tuple[PyTree, ...]:
        prompts, length = batch.prompts, math.prod(self.generator.grid)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (prompts, batch.candidates)))
        given = jax.eval_shape(
            lambda: GivenCodes(
                jnp.zeros((prompts, batch.candidates, length), jnp.int32), jnp.zeros((prompts, length), bool)
            )
        )
        settings = jax.eval_shape(lambda: Settings.of(prompts))
        shapes: PyTree = (self.generator.prompt_spec(prompts), keys, settings, given)
        return jax.tree.map(lambda leaf: laid_out(leaf, row_sharding(self.layout, leaf)), shapes)

    def _cache(self, codes: int) -> PyTree:
        """Return the shapes of the cache of one prompt with one candidate, with room for ``codes`` codes."""

        def fill(state: PyTree, text: Array) -> PyTree:
            generator = nnx.merge(self._graph, state)
            return generator.grow(generator.prefill(text, 1)[1], codes)

        with portable_trace():
            return jax.eval_shape(fill, self._state, self.generator.prompt_spec(1))

    @cached_property
    def cache_bytes(self) -> CacheBytes:
        """The bytes of the full cache; guidance doubles them."""
        cache = self._cache(math.prod(self.generator.grid) - 1)
        image = sum(_bytes(leaf.k) + _bytes(leaf.v) for leaf in _layers(cache))
        return CacheBytes(2 * (_total(cache) - image), 2 * image)

    def step_bytes(self, batch: SampledBatch) -> StepBytes:
        """Return the mean bytes of a step: all weights but the tables of embeddings, and the visible part of the cache.

        A weight that is split over devices which also share the images is counted whole, since each needs it whole.
        """
        layers = cast(CachedGenerator, self.generator)
        read = nnx.state(layers.stack), nnx.state(layers.codes.head)
        whole = [_laid_out(state, self._gathered) for state in read]
        length, bytes_of_steps = math.prod(self.generator.grid), 0
        for begin, end in itertools.pairwise(stages(self.generator, self._cache(0), length)):
            codes, context = self._read(self._cache(end - 1))
            bytes_of_steps += (end - begin) * 2 * (codes * batch.images + context * batch.prompts)
        sharing = self.layout.parts(BATCH) * self._gathered.parts(HEADS)
        return StepBytes(sum(map(bytes_on_a_device, whole)), bytes_of_steps / (length - 1) / sharing)

    def window_bytes(self, batch: SampledBatch, window: int) -> StepBytes:
        """Return the bytes that a device reads in a pass of sampling in slots, one for each image.

        A window of column attention reads at most all columns. All other layers read their whole room.
        """

        def fill(state: PyTree, text: Array) -> PyTree:
            generator = nnx.merge(self._graph, state)
            return generator.slots(generator.prefill(text, 1)[1], window, rows=1)

        with portable_trace():
            cache = jax.eval_shape(fill, self._state, self.generator.prompt_spec(1))
        sharing = self.layout.parts(BATCH) * self._gathered.parts(HEADS)
        codes, context = self._read(cache, window)
        cache = 2 * (codes * batch.images + context * batch.prompts) / sharing
        return self.step_bytes(batch)._replace(cache=cache)

    @property
    def _gathered(self) -> Layout:
        """The layout of weights that are gathered from the devices which share the images."""
        rows = self.layout.mesh_axes(BATCH)
        rules = dataclasses.asdict(self.layout.rules)
        kept = {axis: tuple(name for name in names if name not in rows) for axis, names in rules.items()}
        return Layout(self.layout.mesh, Rules(**kept))

    def _read(self, cache: PyTree, window: int = 1) -> tuple[int, int]:
        """Return the bytes of codes and of the context that a pass over ``window`` codes of one image reads."""
        codes = context = 0

        def add(pattern: Pattern, layer: PyTree) -> PyTree:
            nonlocal codes, context
            own = layer if isinstance(layer, KvCache | SlotCache) else layer.codes
            whole = _bytes(own.k) + _bytes(own.v)
            columns = pattern.grid[1]
            codes += whole * min(window, columns) // columns if pattern.kind == "column" else whole
            context += _total(layer) - whole
            return layer

        cast(CachedGenerator, self.generator).stack.map(add, cache)
        return codes, context


def largest_batch(planned: PlannedSampler, tried: SampledBatch, program: Program, room: int, say: Say) -> int | None:
    """Search for the largest number of prompts, with the candidates of ``tried``, that ``room`` bytes suffice for.

    ``program`` is the compiled one of ``tried``. All of a peak but the weights is taken to grow with the prompts; each
    guess is compiled, at most ``MOST_COMPILATIONS`` times. None if no number is known to fit.
    """
    unit = 1 if tried.candidates % planned.layout.parts(BATCH) == 0 else planned.layout.parts(BATCH)
    weights, prompts, peak = planned.weight_bytes, tried.prompts, program.peak
    fits, does_not = (prompts, None) if program.text is not None and peak <= room else (None, prompts)
    for _ in range(MOST_COMPILATIONS):
        guess = int(prompts * (room - weights) / max(1, peak - weights)) // unit * unit
        guess = guess if does_not is None else min(guess, does_not - unit)
        if guess <= (fits or 0):
            break
        found = planned.compile(SampledBatch(guess, tried.candidates))
        prompts, peak = guess, found.peak
        say(f"{guess * tried.candidates} images: needs {peak / 2**30:.2f} of {room / 2**30:.2f} GiB on a device")
        if found.text is not None and peak <= room:
            fits = guess
            if peak > 0.9 * room:
                break
        else:
            does_not = guess
    return fits


def _laid_out(state: PyTree, layout: Layout) -> PyTree:
    """Return the variables of a state with the shardings of a layout."""

    def place(variable: nnx.Variable, sharding: jax.sharding.Sharding) -> nnx.Variable:
        return variable.replace(laid_out(variable.get_value(), sharding))

    shardings = layout.state_shardings(state)
    return jax.tree.map(place, state, shardings, is_leaf=lambda leaf: isinstance(leaf, nnx.Variable))


def _bytes(leaf: Array | jax.ShapeDtypeStruct) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _total(tree: PyTree) -> int:
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _layers(cache: PyTree) -> list[KvCache]:
    """Return the caches of codes in a tree."""
    leaves = jax.tree.leaves(cache, is_leaf=lambda node: isinstance(node, KvCache))
    return [leaf for leaf in leaves if isinstance(leaf, KvCache)]
