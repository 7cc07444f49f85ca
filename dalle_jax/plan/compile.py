"""The real training step, its initialisation and the real sampler, compiled for chips that are not there.

State and batch are shapes with shardings; nothing is ever computed. That a program compiles does not mean that it fits:
the compiler refuses temporaries that are too large, but not arguments and results, so peaks are compared by us.
"""

import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import jax
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array
from dalle_jax.config.errors import UserError
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.parallel.axes import BATCH
from dalle_jax.parallel.layout import Layout
from dalle_jax.sampling.autoregressive import Settings, sample
from dalle_jax.train.compiled import jitted_step
from dalle_jax.train.flops import Count, count, model_flops
from dalle_jax.train.state import ModuleSpec, state_spec
from dalle_jax.train.task import Task
from dalle_jax.train.trainer import Trainer

REFUSED = re.compile(
    r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm|temporaries \(([\d.]+)([KMGT])\) exceeds available HBM"
)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Program:
    """A compiled program; bytes are those of one device.

    ``peak`` is all that is held at the worst moment, arguments and code included. ``text`` is None where there is no
    program: ``refused`` then says why, and ``peak`` is what is known to be too much.
    """

    peak: int
    arguments: int
    temporaries: int
    flops: Count
    seconds: float
    text: str | None
    refused: str | None = None


def compile_program(traced: Any) -> Program:
    """Counts and compiles what was traced."""
    began = time.monotonic()
    flops = count(traced.jaxpr)
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refused = REFUSED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or refused is None:
            raise
        peak = round(float(refused[1] or refused[3]) * UNITS[refused[2] or refused[4]])
        return Program(peak, 0, 0, flops, time.monotonic() - began, None, "refused by the compiler")
    memory = compiled.memory_analysis()
    return Program(
        peak=memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flops=flops,
        seconds=time.monotonic() - began,
        text=compiled.as_text(),
    )


class Planned:
    """A task and its trainer on a layout of devices that are not there."""

    def __init__(self, task: Task, trainer: Trainer, layout: Layout) -> None:
        self.task, self.trainer, self.layout = task, trainer, layout
        self.plan = state_spec(task, trainer, layout)
        frozen = task.frozen()
        self.frozen = None if frozen is None else ModuleSpec.of(frozen)

    @property
    def parameters(self) -> int:
        """Trainable and untrained numbers of the model."""
        return sum(math.prod(value.shape) for value in self.plan.abstract.learned.params.values())

    @cached_property
    def state_bytes(self) -> int:
        """Bytes of the training state on one device."""
        return _bytes_on_a_device(self.plan.target())

    @cached_property
    def whole_bytes(self) -> int:
        """Bytes of the parameters, whole."""
        return sum(
            math.prod(value.shape) * value.dtype.itemsize for value in self.plan.abstract.learned.params.values()
        )

    @property
    def rows(self) -> int:
        """A batch must be a multiple of it: the parts that the mesh splits rows into, times the microbatches."""
        return self.layout.parts(BATCH) * self.trainer.accumulate

    def model_flops(self, batch: int) -> Count:
        """Model FLOPs of one step, of all devices together."""
        return model_flops(self.task, self.plan, self.frozen, self.task.batch_spec(batch), self.trainer.accumulate)

    def step(self, batch: int) -> Program:
        """One training step on that many rows; raises UserError for a batch that the mesh does not divide."""
        return compile_program(self._traced_step(batch))

    def step_without_room(self, batch: int) -> Program:
        """As ``step`` where the state alone is too much: traced, so that bad input is an error, and not compiled."""
        traced = self._traced_step(batch)
        return Program(self.state_bytes, 0, 0, count(traced.jaxpr), 0.0, None, "the state alone; nothing was compiled")

    def _traced_step(self, batch: int) -> Any:
        spec = self.task.batch_spec(batch)
        shardings = self.layout.batch_shardings(spec)
        rows = {name: _laid_out(spec[name], shardings[name]) for name in spec}
        step = jitted_step(self.task, self.plan, self.frozen, self.trainer, self.layout)
        return step.trace(self.plan.target(), self._frozen_arrays(), rows, self._key())

    def initialisation(self) -> Program:
        """The state of step 0 being made where it lies."""
        return compile_program(self.layout.jit(self.plan.build, out_shardings=self.plan.shardings).trace(self._key()))

    def sampler(self, prompts: int, guided: bool = True) -> Program:
        """One candidate for each of that many prompts, all codes of it; raises UserError for a task that has no codes.

        The network lies as in training; the codes' own network, where there is one, is folded as when it is loaded.
        """
        module_spec = self.plan.module_spec
        abstract = nnx.eval_shape(lambda: self.task.init(nnx.Rngs(0)))
        if not isinstance(abstract, CodeGenerator):
            raise UserError(f"--sample: a {type(abstract).__name__} draws no codes; only transformers are sampled")

        def run(params: Any, non_params: Any, text: Array, keys: Array, settings: Settings) -> Array:
            generator: Any = module_spec.merge(params, non_params)
            generator.codes.fold()
            return sample(generator, text, keys, settings, guided=guided)

        target = self.plan.target().learned
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), (prompts, 1)))
        text = jax.ShapeDtypeStruct((prompts, abstract.text_length), np.int32)
        over = {"text": self._rows(text, "text"), "keys": self._rows(keys, "keys")}
        settings = jax.tree.map(
            lambda leaf: _laid_out(leaf, self.layout.replicated), jax.eval_shape(lambda: Settings.of(prompts))
        )
        traced = self.layout.jit(run).trace(target.params, target.non_params, over["text"], over["keys"], settings)
        return compile_program(traced)

    def _rows(self, array: Any, name: str) -> jax.ShapeDtypeStruct:
        axes = (BATCH, *(None,) * (len(array.shape) - 1))
        return _laid_out(array, self.layout.sharding(axes, array.shape, f"--sample: {name}"))

    def _frozen_arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        if self.frozen is None:
            return {}
        shardings = self.frozen.shardings(self.layout)
        return {name: _laid_out(value, shardings[name]) for name, value in self.frozen.stored().items()}

    def _key(self) -> jax.ShapeDtypeStruct:
        return _laid_out(jax.eval_shape(lambda: jax.random.key(0)), self.layout.replicated)


Say = Callable[[str], None]
"""Where progress goes."""


def _laid_out(array: Any, sharding: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def _bytes_on_a_device(tree: Any) -> int:
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
