"""The jitted functions of a run: the training step, evaluation and images. Each is compiled once."""

import jax
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.parallel.layout import Layout, LayoutJit
from dalle_jax.train import flops, metrics, recompiles
from dalle_jax.train.measure import put_frozen
from dalle_jax.train.state import Arrays, ModuleSpec, State, StateSpec, state_spec
from dalle_jax.train.step import make_step
from dalle_jax.train.task import Batch, Frozen, MetricSums, Task, TrainsOnSamples, step_spec
from dalle_jax.train.trainer import Trainer

EVALUATION_KEY = 1
ROLLOUT_KEY = 2


class CompiledTask:
    """A task compiled for a layout.

    The jitted functions take the arrays of frozen networks as a separate argument, which is never donated.
    """

    def __init__(self, task: Task, trainer: Trainer, layout: Layout):
        self.state_spec = state_spec(task, trainer, layout)
        frozen = task.frozen()
        self._frozen_spec = ModuleSpec.of(frozen)
        self._frozen = put_frozen(frozen, self._frozen_spec, layout)
        self._task, self._accumulate = task, trainer.accumulate
        self.mark: Array | None = None
        self._compiled = 0
        self._called: dict[str, str] = {}
        self._recompiled: list[str] = []
        self._key = layout.jit(lambda: jax.random.key(trainer.seed), out_shardings=layout.replicated)()
        self._step = jitted_step(task, self.state_spec, self._frozen_spec, trainer, layout)
        self._merge = layout.jit(metrics.merge, donate_argnums=0)
        self._evaluate = layout.jit(self._evaluation, out_shardings=layout.replicated)
        self._draw = layout.jit(self._images, out_shardings=layout.replicated)
        self._rollout = layout.jit(self._samples, out_shardings=layout.replicated)

    def step(self, state: State, sums: MetricSums | None, batch: Batch) -> tuple[State, MetricSums]:
        """Run one training step and add its metrics to ``sums``; ``state`` and ``sums`` are donated.

        The attribute ``mark`` becomes an array that is ready when the step has finished. It becomes None if ``sums`` is
        None, since the array is then a part of the returned metrics, which the next step donates.
        """
        before = state
        state, found = self._step(before, self._frozen, batch, self._key)
        if self._step.compiles() != self._compiled:
            self._note_compiled(before, batch)
        self.mark = None if sums is None else found["skipped"][0]
        return state, self.merge(sums, found)

    def recompiled(self) -> list[str]:
        """Return the reason for each recompilation of the step since the last call."""
        reasons, self._recompiled = self._recompiled, []
        return reasons

    def evaluate(self, state: State, batch: Batch, index: int) -> MetricSums:
        """Return the task's metrics on one held-out batch, with the EMA parameters if there are any."""
        learned = state.learned
        params = learned.ema_params or learned.params
        return self._evaluate(params, learned.non_params, self._frozen, batch, self._key, np.int32(index))

    def merge(self, sums: MetricSums | None, found: MetricSums) -> MetricSums:
        """Add ``found`` to ``sums``, which is donated."""
        return found if sums is None else self._merge(sums, found)

    def images(self, state: State, batch: Batch) -> Float[Array, "n H W 3"] | None:
        """Return the sample images of the task, or None if it has none."""
        learned = state.learned
        params = learned.ema_params or learned.params
        return self._draw(params, learned.non_params, self._frozen, batch, self._key)

    def rollout(self, state: State, batch: Batch, index: int) -> dict[str, Array]:
        """Return the samples of rollout number ``index`` of a task that trains on its samples, whole on each device."""
        learned = state.learned
        return self._rollout(learned.params, learned.non_params, self._frozen, batch, self._key, np.int32(index))

    def compiles(self) -> dict[str, int]:
        """Return the number of compilations of each function."""
        functions: dict[str, LayoutJit] = {"step": self._step, "evaluate": self._evaluate, "images": self._draw}
        return {name: function.compiles() for name, function in functions.items()}

    def flops(self, batch_size: int) -> tuple[float | None, float | None]:
        """Return the model FLOPs and the hardware FLOPs of one step (train/flops.py).

        Either is None if the step has an operation whose FLOPs are not known.
        """
        batch = step_spec(self._task, batch_size)
        model = flops.model_flops(self._task, self.state_spec, self._frozen_spec, batch, self._accumulate)
        traced = self._step.trace(self.state_spec.target(), self._frozen, batch, self._key)
        counts = (model, flops.count(traced.jaxpr))
        whole = [None if count.uncounted else count.total for count in counts]
        return whole[0], whole[1]

    def _note_compiled(self, state: State, batch: Batch) -> None:
        parts = {**state.learned._asdict(), **state.counted._asdict(), **state.remembered._asdict()}
        called = recompiles.signature({"state": parts, "batch": batch})
        if self._compiled:
            self._recompiled.append(recompiles.difference(self._called, called))
        self._compiled, self._called = self._step.compiles(), called

    def _evaluation(
        self,
        params: Arrays,
        non_params: Arrays,
        frozen: Arrays,
        batch: Batch,
        key: Key[Array, ""],
        index: Int[Array, ""],
    ) -> MetricSums:
        key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION_KEY), index)
        module = self.state_spec.module_spec.merge(params, non_params)
        return metrics.as_float32(self._task.evaluate(module, self._frozen_spec.merge(frozen), batch, key))

    def _images(
        self, params: Arrays, non_params: Arrays, frozen: Arrays, batch: Batch, key: Key[Array, ""]
    ) -> Float[Array, "n H W 3"] | None:
        module = self.state_spec.module_spec.merge(params, non_params)
        return self._task.images(module, self._frozen_spec.merge(frozen), batch, key)

    def _samples(
        self,
        params: Arrays,
        non_params: Arrays,
        frozen: Arrays,
        batch: Batch,
        key: Key[Array, ""],
        index: Int[Array, ""],
    ) -> dict[str, Array]:
        assert isinstance(self._task, TrainsOnSamples)
        key = jax.random.fold_in(jax.random.fold_in(key, ROLLOUT_KEY), index)
        module = self.state_spec.module_spec.merge(params, non_params)
        return self._task.rollout(module, self._frozen_spec.merge(frozen), batch, key)


def jitted_step(
    task: Task, spec: StateSpec, frozen: ModuleSpec[Frozen], trainer: Trainer, layout: Layout
) -> LayoutJit[tuple[State, MetricSums]]:
    """Return the jitted training step: it takes a state, frozen arrays, a batch and the seed key."""
    step = make_step(task, spec, frozen, trainer)
    return layout.jit(step, donate_argnums=0, out_shardings=(spec.shardings, layout.replicated))
