"""The jitted functions of one run: the step, evaluation and images, each compiled once."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from dalle_jax.arrays import Array, Int, Key
from dalle_jax.parallel.layout import Layout, LayoutJit
from dalle_jax.train import flops, metrics, recompiles
from dalle_jax.train.state import Arrays, ModuleSpec, State, StateSpec, plan
from dalle_jax.train.step import make_step
from dalle_jax.train.task import Batch, Frozen, MetricSums, Task

if TYPE_CHECKING:
    from dalle_jax.train.loop import Trainer

EVALUATION_KEY = 1


class CompiledTask:
    """A task made runnable on a layout. The arrays of frozen networks are an argument of their own: never donated."""

    def __init__(self, task: Task, trainer: "Trainer", layout: Layout):
        self.plan = state_plan(task, trainer, layout)
        frozen = task.frozen()
        self._frozen_blueprint = ModuleSpec.of(frozen)
        self._frozen = _on_devices(frozen, self._frozen_blueprint, layout)
        self._task, self._accumulate = task, trainer.accumulate
        self.mark: Array | None = None
        self._compiled = 0
        self._called: dict[str, str] = {}
        self._recompiled: list[str] = []
        self._key = layout.jit(lambda: jax.random.key(trainer.seed), out_shardings=layout.replicated)()
        self._step = jitted_step(task, self.plan, self._frozen_blueprint, trainer, layout)
        self._merge = layout.jit(metrics.merge, donate_argnums=0)
        self._evaluate = layout.jit(self._evaluation, out_shardings=layout.replicated)
        self._draw = layout.jit(self._drawing, out_shardings=layout.replicated)

    def step(self, state: State, sums: MetricSums | None, batch: Batch) -> tuple[State, MetricSums]:
        """One step; ``state`` and ``sums`` are donated, and the step's MetricSums are added to ``sums``.

        ``mark`` is then an array that is ready when the step has finished; None where the MetricSums themselves are
        returned.
        """
        before = state
        state, found = self._step(before, self._frozen, batch, self._key)
        if self._step.compiles() != self._compiled:
            self._note_compiled(before, batch)
        self.mark = None if sums is None else found["skipped"][0]
        return state, self.merge(sums, found)

    def recompiled(self) -> list[str]:
        """Why the step was compiled again, for each time that it was since this was last asked."""
        reasons, self._recompiled = self._recompiled, []
        return reasons

    def evaluate(self, state: State, batch: Batch, index: int) -> MetricSums:
        """The task's figures on one held-out batch, with the averaged parameters where there are any."""
        return self._evaluate(
            state.average or state.params, state.others, self._frozen, batch, self._key, np.int32(index)
        )

    def merge(self, sums: MetricSums | None, found: MetricSums) -> MetricSums:
        """Both together; ``sums`` is donated."""
        return found if sums is None else self._merge(sums, found)

    def images(self, state: State, batch: Batch) -> Array | None:
        """What the task draws, if it draws."""
        return self._draw(state.average or state.params, state.others, self._frozen, batch, self._key)

    def compiles(self) -> dict[str, int]:
        """How often each function was compiled."""
        functions = {"step": self._step, "evaluate": self._evaluate, "images": self._draw}
        return {name: function.compiles() for name, function in functions.items()}

    def flops(self, batch_size: int) -> tuple[float | None, float | None]:
        """Model and hardware FLOPs of one step (train/flops.py); None where something in it has no known count."""
        batch = self._task.batch_spec(batch_size)
        model = flops.model_flops(self._task, self.plan, self._frozen_blueprint, batch, self._accumulate)
        traced = self._step.trace(self.plan.target(), self._frozen, batch, self._key)
        counts = (model, flops.count(traced.jaxpr))
        whole = [None if count.uncounted else count.total for count in counts]
        return whole[0], whole[1]

    def _note_compiled(self, state: State, batch: Batch) -> None:
        called = recompiles.signature({"state": state._asdict(), "batch": batch})
        if self._compiled:
            self._recompiled.append(recompiles.difference(self._called, called))
        self._compiled, self._called = self._step.compiles(), called

    def _evaluation(
        self, params: Arrays, others: Arrays, frozen: Arrays, batch: Batch, key: Key[Array, ""], index: Int[Array, ""]
    ) -> MetricSums:
        key = jax.random.fold_in(jax.random.fold_in(key, EVALUATION_KEY), index)
        module = self.plan.blueprint.merge(params, others)
        return metrics.as_float32(self._task.evaluate(module, self._frozen_blueprint.merge(frozen), batch, key))

    def _drawing(self, params: Arrays, others: Arrays, frozen: Arrays, batch: Batch, key: Key[Array, ""]) -> Any:
        module = self.plan.blueprint.merge(params, others)
        return self._task.images(module, self._frozen_blueprint.merge(frozen), batch, key)


def state_plan(task: Task, trainer: "Trainer", layout: Layout) -> StateSpec:
    """What the training state of a run will be."""
    return plan(
        task, trainer.optimizer, trainer.ema is not None, layout, trainer.decayed, trainer.schedule, trainer.trained
    )


def jitted_step(
    task: Task, plan: StateSpec, frozen: ModuleSpec[Frozen], trainer: "Trainer", layout: Layout
) -> LayoutJit:
    """The step as it is trained with, and as ``plan`` compiles it: state, frozen arrays, batch, seed key."""
    step = make_step(
        task,
        plan,
        frozen,
        schedule=trainer.schedule,
        steps=trainer.steps,
        accumulate=trainer.accumulate,
        clip_norm=trainer.clip_norm,
        ema=trainer.ema,
        skip=trainer.spikes,
        reduce_dtype=trainer.reduce_dtype,
    )
    return layout.jit(step, donate_argnums=0, out_shardings=(plan.shardings, layout.replicated))


def _on_devices(frozen: Frozen, blueprint: ModuleSpec[Frozen], layout: Layout) -> Arrays:
    params, others = blueprint.split(frozen)
    arrays = params | others
    shardings = blueprint.shardings(layout)
    if jax.process_count() > 1:  # each has the whole on a device of its own
        arrays = jax.device_get(arrays)
    return {name: jax.device_put(value, shardings[name]) for name, value in arrays.items()}
