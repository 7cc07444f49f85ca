"""The training step as a pure function of the state. It updates every objective in order, or nothing at all."""

import functools
from collections.abc import Callable, Mapping
from typing import TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import optax

from dalle_jax.arrays import Array, PyTree
from dalle_jax.parallel.reduction import gradients_summed_in
from dalle_jax.train import metrics
from dalle_jax.train.microbatches import Bound, Gradients, check_accumulate, gradients
from dalle_jax.train.optim import constraints, schedules
from dalle_jax.train.optim import ema as averaging
from dalle_jax.train.state import Arrays, Counted, Learned, ModuleSpec, Remembered, State, StateSpec
from dalle_jax.train.task import Batch, Frozen, MetricSums, Task
from dalle_jax.train.trainer import Trainer

T = TypeVar("T")
Step: TypeAlias = Callable[[State, Arrays, Batch, Array], tuple[State, MetricSums]]


def make_step(task: Task, spec: StateSpec, frozen: ModuleSpec[Frozen], trainer: Trainer) -> Step:
    """Return ``step(state, frozen arrays, batch, seed key) -> (state, MetricSums)``, not yet jitted.

    A step whose loss or gradient is not finite, in any objective, changes only the counters. So does a spike of the
    gradient norm if ``trainer.spikes`` is set. Gradients are computed in microbatches (train/microbatches.py), summed
    over devices in ``trainer.reduce_dtype``, and clipped by their global norm. Constraints are applied to the updated
    parameters, before the EMA.
    """
    check_accumulate(task, trainer.accumulate)
    objectives = task.objectives()
    factors = {} if trainer.rate_factors is None else trainer.rate_factors.of(spec.module_spec.params())
    bounds = {one.name: constraints.projections(one, spec.module_spec, spec.trainable[one.name]) for one in objectives}

    def step(state: State, frozen_arrays: Arrays, batch: Batch, key: Array) -> tuple[State, MetricSums]:
        fixed = functools.partial(frozen.merge, frozen_arrays)
        learned, index_of_step = state.learned, state.counted.step
        key = jax.random.fold_in(key, index_of_step)
        rate = schedules.in_step(trainer.schedule, index_of_step, trainer.steps, state.remembered.schedule)
        params, non_params, states = learned.params, learned.non_params, dict(learned.optimizers)
        finite, total = jnp.asarray(True), jnp.zeros(())
        norms: Arrays = {}
        sums: MetricSums = {"learning_rate": (rate, jnp.ones(()))}
        for index, objective in enumerate(objectives):
            trained = {name: params[name] for name in spec.trainable[objective.name]}
            bound = Bound(objective, spec.module_spec, fixed, params, index_of_step)
            objective_key, shardings = jax.random.fold_in(key, index), spec.shardings.learned.params
            with gradients_summed_in(trainer.reduce_dtype):
                compute = functools.partial(
                    gradients, bound, trained, non_params, batch, trainer.accumulate, objective_key, shardings
                )
                value, grads, non_params, found = _from_start(bound, non_params, compute)
            total = total + value
            norms[objective.name] = norm = optax.tree.norm(grads)
            finite = finite & jnp.isfinite(value) & jnp.isfinite(norm)
            grads = clip_by_norm(grads, norm, trainer.clip_norm)
            transformation = spec.transformations[objective.name]
            rates = (
                {name: factors.get(name, 1.0) * rate for name in trained} if factors else dict.fromkeys(trained, rate)
            )
            trained, states[objective.name] = _update(transformation, grads, states[objective.name], trained, rates)
            params = params | constraints.project(bounds[objective.name], trained)
            found = metrics.merge(found, {f"gradient_norm/{objective.name}": (norm, jnp.ones(()))})
            sums = metrics.merge(sums, found)
        ema_params = learned.ema_params
        if trainer.ema is not None:
            moved = {name: ema_params[name] for names in spec.trainable.values() for name in names}
            ema_params = ema_params | averaging.update(trainer.ema, moved, params, index_of_step)
        schedule = schedules.next_state(trainer.schedule, state.remembered.schedule, index_of_step, total)
        spiked = jnp.asarray(False)
        if trainer.spikes is not None:
            spiked = finite & trainer.spikes.among(norms, state.remembered.gradient_norms)
            sums["spiked"] = (spiked.astype(jnp.float32), jnp.ones(()))
        good = finite & ~spiked
        remembered = Remembered(state.remembered.gradient_norms.add(norms), schedule)
        after = State(
            keep_if(good, Learned(params, non_params, ema_params, states), learned),
            _count(state.counted, finite, spiked),
            keep_if(good, remembered, state.remembered),
        )
        return after, _report(sums, finite)

    return step


def _from_start(bound: Bound, non_params: Arrays, compute: Callable[[], Gradients]) -> Gradients:
    """Call ``compute`` from step ``Objective.starts`` on; before it, return zeros and compute nothing."""
    if bound.objective.starts <= 0:
        return compute()
    abstract = jax.eval_shape(compute)
    idle = jax.tree.map(lambda one: jnp.zeros(one.shape, one.dtype), abstract)._replace(non_params=non_params)
    return jax.lax.cond(bound.step >= bound.objective.starts, compute, lambda: idle)


def clip_by_norm(grads: Arrays, norm: Array, limit: float | None) -> Arrays:
    """Scale gradients down to a global norm of at most ``limit``; ``norm`` is their global norm."""
    if limit is None:
        return grads
    scale = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-16))
    return jax.tree.map(lambda grad: grad * scale, grads)


def keep_if(good: Array, new: T, old: T) -> T:
    """Return ``new`` if ``good`` is True, else ``old``. Both are trees of arrays of the same structure."""
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), new, old)


def _update(
    transformation: optax.GradientTransformation, grads: Arrays, state: PyTree, params: Arrays, rates: Arrays
) -> tuple[Arrays, PyTree]:
    directions, state = transformation.update(grads, state, params)
    moved = {name: (value - rates[name] * directions[name]).astype(value.dtype) for name, value in params.items()}
    return moved, state


def _count(counted: Counted, finite: Array, spiked: Array) -> Counted:
    bad, spike = 1 - finite.astype(jnp.int32), spiked.astype(jnp.int32)
    return Counted(
        step=counted.step + 1,
        skipped=counted.skipped + bad,
        spiked=counted.spiked + spike,
        skipped_in_a_row=(counted.skipped_in_a_row + bad + spike) * (bad + spike),
    )


def _report(sums: Mapping[str, tuple[Array, Array]], finite: Array) -> MetricSums:
    """Return the metrics of a step that was applied, or zeros for one that was not, with the share of skipped steps."""
    bad = 1.0 - finite.astype(jnp.float32)
    return metrics.where(finite, metrics.as_float32(sums)) | {"skipped": (bad, jnp.ones(()))}
