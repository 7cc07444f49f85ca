"""The training step and its initialisation, compiled for devices that this machine does not have.

State and batch are shapes with shardings; nothing is computed. A program that compiles may still not fit: the compiler
refuses temporaries that are too large, but not arguments and results. The plan therefore compares a program's peak with
the device's memory itself.
"""

import contextlib
import contextvars
import math
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import jax
from jax.stages import Traced

from dalle_jax.arrays import PyTree
from dalle_jax.parallel.axes import BATCH
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.compiled import jitted_step
from dalle_jax.train.flops import Count, count, model_flops
from dalle_jax.train.state import ModuleSpec, state_spec
from dalle_jax.train.task import Task, step_spec
from dalle_jax.train.trainer import Trainer

REFUSED = re.compile(
    r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm|temporaries \(([\d.]+)([KMGT])\) exceeds available HBM"
)
EFFORT = "jax_exec_time_optimization_effort"
LEAST_EFFORT = -1.0
"""The smallest value of jax's ``EFFORT``, which is from -1 to 1."""
_quick: contextvars.ContextVar[bool] = contextvars.ContextVar("quick", default=False)
UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclass(frozen=True)
class Program:
    """A compiled program; bytes are per device.

    ``peak`` is the largest amount of memory in use at one time, including arguments and code. If nothing was compiled,
    ``text`` is None, ``refused`` gives the reason, and ``peak`` is a lower bound. ``quick`` programs were compiled with
    the least effort.
    """

    peak: int
    arguments: int
    temporaries: int
    flops: Count
    seconds: float
    text: str | None
    refused: str | None = None
    quick: bool = False


@contextlib.contextmanager
def compiler_effort(*, quick: bool) -> Iterator[None]:
    """With ``quick``, let XLA spend its least effort on the programs' speed inside the context.

    A convolution of 192 channels and its gradients compiled in 1.5 instead of 17 CPU seconds (two cores of an AMD EPYC,
    libtpu 0.0.42.1). Its peak memory was 1.09 times that of full effort, and that of a small transformer's step 0.83
    times.
    """
    if not quick:
        yield
        return
    before, token = getattr(jax.config, EFFORT), _quick.set(True)
    jax.config.update(EFFORT, LEAST_EFFORT)
    try:
        yield
    finally:
        jax.config.update(EFFORT, before)
        _quick.reset(token)


def compile_program(traced: Traced) -> Program:
    """Count the FLOPs of a traced function and compile it."""
    began = time.monotonic()
    flops, quick = count(traced.jaxpr), _quick.get()
    try:
        compiled = traced.lower().compile()
    except jax.errors.JaxRuntimeError as error:
        refused = REFUSED.search(str(error))
        if "RESOURCE_EXHAUSTED" not in str(error) or refused is None:
            raise
        peak = round(float(refused[1] or refused[3]) * UNITS[refused[2] or refused[4]])
        return Program(peak, 0, 0, flops, time.monotonic() - began, None, "refused by the compiler", quick)
    memory = compiled.memory_analysis()
    return Program(
        peak=memory.peak_memory_in_bytes + memory.generated_code_size_in_bytes,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        flops=flops,
        seconds=time.monotonic() - began,
        text=compiled.as_text(),
        quick=quick,
    )


class Planned:
    """A task and its trainer on a layout of devices that this machine does not have."""

    def __init__(self, task: Task, trainer: Trainer, layout: Layout) -> None:
        self.task, self.trainer, self.layout = task, trainer, layout
        self.plan = state_spec(task, trainer, layout)
        self.frozen = ModuleSpec.of(task.frozen())

    @property
    def parameters(self) -> int:
        """Return the number of parameters, trainable or not."""
        return sum(math.prod(value.shape) for value in self.plan.abstract.learned.params.values())

    @cached_property
    def state_bytes(self) -> int:
        """Return the bytes of the training state on one device."""
        return bytes_on_a_device(self.plan.target())

    @cached_property
    def whole_bytes(self) -> int:
        """Return the bytes of all parameters, before sharding."""
        return sum(
            math.prod(value.shape) * value.dtype.itemsize for value in self.plan.abstract.learned.params.values()
        )

    @property
    def rows(self) -> int:
        """Return the number of which a batch size must be a multiple: shards of the batch axis times microbatches."""
        return self.layout.parts(BATCH) * self.trainer.accumulate

    def model_flops(self, batch: int) -> Count:
        """Return the model FLOPs of one step, summed over devices."""
        return model_flops(self.task, self.plan, self.frozen, step_spec(self.task, batch), self.trainer.accumulate)

    def step(self, batch: int) -> Program:
        """Compile the training step for a batch size. Raise ``UserError`` if the size is not a multiple of ``rows``."""
        return compile_program(self._traced_step(batch))

    def step_without_room(self, batch: int) -> Program:
        """Trace the training step without compiling it, if the state alone is too large.

        Raise the same errors as ``step``.
        """
        traced = self._traced_step(batch)
        return Program(self.state_bytes, 0, 0, count(traced.jaxpr), 0.0, None, "the state alone; nothing was compiled")

    def _traced_step(self, batch: int) -> Traced:
        spec = step_spec(self.task, batch)
        shardings = self.layout.batch_shardings(spec)
        rows = {name: laid_out(spec[name], shardings[name]) for name in spec}
        step = jitted_step(self.task, self.plan, self.frozen, self.trainer, self.layout)
        return step.trace(self.plan.target(), self._frozen_arrays(), rows, self._key())

    def initialisation(self) -> Program:
        """Compile the initialisation of the state, in which every array is created sharded."""
        return compile_program(self.layout.jit(self.plan.build, out_shardings=self.plan.shardings).trace(self._key()))

    def _frozen_arrays(self) -> dict[str, jax.ShapeDtypeStruct]:
        shardings = self.frozen.shardings(self.layout)
        return {name: laid_out(value, shardings[name]) for name, value in self.frozen.stored().items()}

    def _key(self) -> jax.ShapeDtypeStruct:
        return laid_out(jax.eval_shape(lambda: jax.random.key(0)), self.layout.replicated)


Say = Callable[[str], None]
"""The function that prints a line of progress."""


def laid_out(array: jax.ShapeDtypeStruct, sharding: jax.sharding.Sharding) -> jax.ShapeDtypeStruct:
    """Return the shape of an array with its sharding."""
    return jax.ShapeDtypeStruct(array.shape, array.dtype, sharding=sharding)


def bytes_on_a_device(tree: PyTree) -> int:
    """Return the bytes of the shards of all arrays on one device."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
