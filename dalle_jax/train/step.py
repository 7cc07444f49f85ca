"""One step of training, as a pure function of the state: every objective in order, all of it or nothing."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dalle_jax.arrays import Array
from dalle_jax.parallel.reduction import ReduceDtype, gradients_summed_in
from dalle_jax.train import metrics
from dalle_jax.train.microbatches import Bound, check_accumulate, gradients
from dalle_jax.train.optim import constraints, gradient_spikes, schedules
from dalle_jax.train.optim import ema as averaging
from dalle_jax.train.state import Arrays, ModuleSpec, State, StateSpec
from dalle_jax.train.task import Batch, Frozen, MetricSums, Task

Step = Callable[[State, Arrays, Batch, Array], tuple[State, MetricSums]]


def make_step(
    task: Task,
    plan: StateSpec,
    frozen: ModuleSpec[Frozen],
    schedule: schedules.Schedule,
    steps: int,
    accumulate: int,
    clip_norm: float | None,
    ema: averaging.Ema | None,
    skip: gradient_spikes.SkipSpikes | None = None,
    reduce_dtype: ReduceDtype = "float32",
) -> Step:
    """``step(state, frozen arrays, batch, seed key) -> (state, MetricSums)``, not yet jitted; ``state`` may be donated.

    A loss or a gradient that is not finite, in any objective, leaves everything but the counters as it was, and so does
    a spike of the gradient norm where ``skip`` says so. Gradients are summed over devices in ``reduce_dtype``, found
    in ``accumulate`` microbatches (train/microbatches.py) and clipped to ``clip_norm`` by their global norm. The
    constraints of an objective are applied to what its update gives, before the moving average sees it.
    """
    check_accumulate(task, accumulate)
    objectives = task.objectives()
    bounds = {one.name: constraints.projections(one, plan.blueprint, plan.trained[one.name]) for one in objectives}

    def step(state: State, frozen_arrays: Arrays, batch: Batch, key: Array) -> tuple[State, MetricSums]:
        fixed = functools.partial(frozen.merge, frozen_arrays)
        key = jax.random.fold_in(key, state.step)
        rate = schedules.in_step(schedule, state.step, steps, state.schedule)
        params, others, states = state.params, state.others, dict(state.optimizers)
        finite, total = jnp.asarray(True), jnp.zeros(())
        norms: Arrays = {}
        sums: MetricSums = {"learning_rate": (rate, jnp.ones(()))}
        for index, objective in enumerate(objectives):
            trained = {name: params[name] for name in plan.trained[objective.name]}
            bound = Bound(objective, plan.blueprint, fixed, params, state.step)
            objective_key, lies = jax.random.fold_in(key, index), plan.shardings.params
            with gradients_summed_in(reduce_dtype):
                value, grads, others, found = gradients(bound, trained, others, batch, accumulate, objective_key, lies)
            total = total + value
            norms[objective.name] = norm = optax.tree.norm(grads)
            finite = finite & jnp.isfinite(value) & jnp.isfinite(norm)
            grads = clipped(grads, norm, clip_norm)
            transformation = plan.transformations[objective.name]
            trained, states[objective.name] = _update(transformation, grads, states[objective.name], trained, rate)
            params = params | constraints.project(bounds[objective.name], trained)
            found = metrics.merge(found, {f"gradient_norm/{objective.name}": (norm, jnp.ones(()))})
            sums = metrics.merge(sums, found)
        average = state.average
        if ema is not None:
            moved = {name: average[name] for names in plan.trained.values() for name in names}
            average = average | averaging.update(ema, moved, params, state.step)
        remembered = schedules.next_state(schedule, state.schedule, state.step, total)
        spiked = jnp.asarray(False)
        if skip is not None:
            spiked = finite & skip.among(norms, state.gradient_norms)
            sums["spiked"] = (spiked.astype(jnp.float32), jnp.ones(()))
        followed = state.gradient_norms.add(norms)
        old = (*state[1:6], state.schedule)
        kept = keep_if(finite & ~spiked, (params, others, average, states, followed, remembered), old)
        return _count(state, kept, finite, spiked), _report(sums, finite)

    return step


def clipped(grads: Arrays, norm: Array, limit: float | None) -> Arrays:
    """Gradients scaled down to a global norm of at most ``limit``."""
    if limit is None:
        return grads
    scale = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-16))
    return jax.tree.map(lambda grad: grad * scale, grads)


def keep_if(good: Array, new: Any, old: Any) -> Any:
    """``new`` where the step was good, else ``old``, leaf by leaf."""
    return jax.tree.map(lambda a, b: jnp.where(good, a, b), tuple(new), tuple(old))


def _update(
    transformation: optax.GradientTransformation, grads: Arrays, state: Any, params: Arrays, rate: Array
) -> tuple[Arrays, Any]:
    directions, state = transformation.update(grads, state, params)
    moved = {name: (value - rate * directions[name]).astype(value.dtype) for name, value in params.items()}
    return moved, state


def _count(state: State, kept: Any, finite: Array, spiked: Array) -> State:
    bad, spike = 1 - finite.astype(jnp.int32), spiked.astype(jnp.int32)
    params, others, average, optimizers, norms, remembered = kept
    in_a_row = (state.skipped_in_a_row + bad + spike) * (bad + spike)
    skipped, spikes = state.skipped + bad, state.spiked + spike
    return State(
        state.step + 1, params, others, average, optimizers, norms, skipped, spikes, in_a_row, schedule=remembered
    )


def _report(sums: Mapping[str, Any], finite: Array) -> MetricSums:
    """The figures of a good step, or none of them, and whether it was skipped."""
    bad = 1.0 - finite.astype(jnp.float32)
    return metrics.where(finite, metrics.as_float32(sums)) | {"skipped": (bad, jnp.ones(()))}
