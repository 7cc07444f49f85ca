"""Learning rate schedules: a closed union of small dataclasses, each of which builds a schedule of optax.

Warm-ups are linear, and a decay counts its steps from the end of the warm-up. The schedules of published models:

    DALL·E 1, dVAE (arXiv 2102.12092, appendix A)         CosineRate(1e-4, final=1/80) over 1,200,000 steps
    DALL·E 1, transformer (appendix B)                    PlateauRate(4.5e-4, warmup=5000, lowest=1/32)
    DALL·E mini and mega (their training journal)         ConstantRate(1e-4, warmup=10_000), later ExponentialRate
    CLIP (arXiv 2103.00020, section 2.5)                  CosineRate(5e-4) over 32 epochs

``as_optax(steps)`` returns the function that maps a step, counted from 0, of ``steps`` to its rate.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import optax

from dalle_jax.arrays import Array, Float, Int, PyTree


@dataclass(frozen=True)
class ConstantRate:
    """``rate`` after a linear warm-up of ``warmup`` steps."""

    rate: float
    warmup: int = 0

    def __post_init__(self) -> None:
        _check_rate(self.rate, self.warmup)

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate as a function of the step."""
        del steps
        return _after_warmup(self.rate, self.warmup, optax.constant_schedule(self.rate))


@dataclass(frozen=True)
class CosineRate:
    """Warm-up to ``rate``, then half a cosine down to ``final * rate`` at the last step (arXiv 1608.03983)."""

    rate: float
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.rate, self.warmup)

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate as a function of the step."""
        decay = optax.cosine_decay_schedule(self.rate, max(steps - self.warmup, 1), self.final)
        return _after_warmup(self.rate, self.warmup, decay)


@dataclass(frozen=True)
class LinearRate:
    """Warm-up to ``rate``, then a straight line down to ``final * rate`` at the last step."""

    rate: float
    warmup: int = 0
    final: float = 0.0

    def __post_init__(self) -> None:
        _check_rate(self.rate, self.warmup)

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate as a function of the step."""
        decay = optax.linear_schedule(self.rate, self.final * self.rate, max(steps - self.warmup, 1))
        return _after_warmup(self.rate, self.warmup, decay)


@dataclass(frozen=True)
class InverseRootRate:
    """Warm-up to ``rate``, then ``rate * sqrt(warmup / step)`` (arXiv 1706.03762, section 5.3)."""

    rate: float
    warmup: int

    def __post_init__(self) -> None:
        _check_rate(self.rate, self.warmup)

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate as a function of the step."""
        return RsqrtRate(self.rate, self.warmup, timescale=max(self.warmup, 1)).as_optax(steps)


@dataclass(frozen=True)
class RsqrtRate:
    """Warm-up to ``rate``, then ``rate / sqrt(1 + s / timescale)`` s steps later (arXiv 2106.04560, appendix).

    In the last ``cooldown`` steps the rate is also multiplied by a factor that falls linearly from 1 to 0. With
    ``timescale`` equal to ``warmup`` and no cooldown it is ``InverseRootRate``.
    """

    rate: float
    warmup: int = 0
    timescale: int = 10_000
    cooldown: int = 0

    def __post_init__(self) -> None:
        _check_rate(self.rate, self.warmup)

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate as a function of the step. optax has no inverse square root."""

        def decay(since: Array | float | int) -> Array:
            return self.rate / jnp.sqrt(1.0 + jnp.maximum(since + 1.0, 0.0) / self.timescale)

        rate = _after_warmup(self.rate, self.warmup, decay)
        if not self.cooldown:
            return rate
        return lambda step: rate(step) * jnp.clip((steps - step) / self.cooldown, 0.0, 1.0)


@dataclass(frozen=True)
class ExponentialRate:
    """Warm-up to ``rate``, then a decay by ``factor`` every ``every`` steps, gradual or in ``stairs``."""

    rate: float
    factor: float
    every: int
    warmup: int = 0
    stairs: bool = False

    def __post_init__(self) -> None:
        _check_rate(self.rate, self.warmup)

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate as a function of the step."""
        del steps
        decay = optax.exponential_decay(self.rate, self.every, self.factor, staircase=self.stairs)
        return _after_warmup(self.rate, self.warmup, decay)


@dataclass(frozen=True)
class PlateauRate:
    """Warm-up to ``rate``, then times ``factor`` each time the training loss stops falling, down to ``lowest``.

    DALL·E 1's transformer halved its rate five times, to 1/32 (arXiv 2102.12092, appendix B). Its criterion for a
    plateau is not published. Here the loss is averaged over windows of ``window`` steps. A plateau is ``patience``
    windows in a row, none of which is lower than the best one by the share ``threshold`` of its absolute value. For
    losses above 0 this is optax.contrib.reduce_on_plateau, which never finds a plateau of a loss below 0.
    """

    rate: float
    warmup: int = 0
    factor: float = 0.5
    lowest: float = 1 / 32
    window: int = 1000
    patience: int = 5
    threshold: float = 1e-3

    def __post_init__(self) -> None:
        _check_rate(self.rate, self.warmup)
        for name in ("factor", "lowest", "threshold"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name}: expected a share between 0 and 1, got {getattr(self, name)}")
        for name in ("window", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate before the first plateau as a function of the step."""
        return ConstantRate(self.rate, self.warmup).as_optax(steps)

    def follow(self, state: "PlateauState", loss: Array) -> "PlateauState":
        """Return the state after a step with this loss."""
        total, steps = state.total + loss, state.steps + 1
        full, mean = steps == self.window, total / steps
        better = mean < state.best - self.threshold * jnp.abs(state.best)
        better = better | jnp.isinf(state.best)  # the first window: inf - inf is not a number
        worse = jnp.where(better, 0, state.worse + 1)
        plateau = worse == self.patience
        lowered = jnp.maximum(state.scale * self.factor, self.lowest)
        after = PlateauState(
            scale=jnp.where(plateau, lowered, state.scale),
            best=jnp.where(better, mean, state.best),
            worse=jnp.where(plateau, 0, worse),
            total=jnp.zeros_like(total),
            steps=jnp.zeros_like(steps),
        )
        return jax.tree.map(lambda new, old: jnp.where(full, new, old), after, state._replace(total=total, steps=steps))


class PlateauState(NamedTuple):
    """Scalars that follow the loss: ``scale`` multiplies the rate, ``best`` is the lowest mean of a window.

    ``worse`` counts the windows since ``best``. ``total`` and ``steps`` are of the present window.
    """

    scale: Float[Array, ""]
    best: Float[Array, ""]
    worse: Int[Array, ""]
    total: Float[Array, ""]
    steps: Int[Array, ""]


Plain: TypeAlias = ConstantRate | CosineRate | LinearRate | InverseRootRate | RsqrtRate | ExponentialRate


@dataclass(frozen=True)
class JoinedRate:
    """``first`` as a schedule of ``until`` steps, followed by ``then`` as a schedule of the remaining steps.

    ``then`` may be a joined schedule too.
    """

    first: Plain
    until: int
    then: "Plain | JoinedRate"

    @property
    def warmup(self) -> int:
        """The warm-up steps of ``first``."""
        return self.first.warmup

    def as_optax(self, steps: int) -> optax.Schedule:
        """Return the rate as a function of the step."""
        parts = [self.first.as_optax(self.until), self.then.as_optax(steps - self.until)]
        return optax.join_schedules(parts, [self.until])


Schedule: TypeAlias = Plain | PlateauRate | JoinedRate


def in_step(schedule: Schedule, step: Array, steps: int, state: PyTree = ()) -> Array:
    """Return the learning rate of a traced ``step`` out of ``steps``.

    ``state`` is the schedule's state from ``first_state`` or ``next_state``.
    """
    rate = jnp.asarray(schedule.as_optax(steps)(step.astype(jnp.float32)), jnp.float32)
    return rate * state.scale if isinstance(schedule, PlateauRate) else rate


def first_state(schedule: Schedule) -> PyTree:
    """Return the state of a schedule at step 0: scalars for a PlateauRate, an empty tuple for all others."""
    if not isinstance(schedule, PlateauRate):
        return ()
    zero, count = jnp.zeros(()), jnp.zeros((), jnp.int32)
    return PlateauState(jnp.ones(()), jnp.asarray(jnp.inf), count, zero, count)


def next_state(schedule: Schedule, state: PyTree, step: Array, loss: Array) -> PyTree:
    """Return the state after a step with this loss; losses during the warm-up do not count."""
    if not isinstance(schedule, PlateauRate):
        return state
    followed = schedule.follow(state, loss)
    return jax.tree.map(lambda new, old: jnp.where(step >= schedule.warmup, new, old), followed, state)


def _check_rate(rate: float, warmup: int) -> None:
    """Raise ValueError for a negative rate, or a negative number of warm-up steps."""
    if not 0.0 <= rate < math.inf:
        raise ValueError(f"rate: expected 0 or more, got {rate}")
    if warmup < 0:
        raise ValueError(f"warmup: expected 0 steps or more, got {warmup}")


def _after_warmup(rate: float, warmup: int, decay: optax.Schedule) -> optax.Schedule:
    """Return a warm-up from ``rate / warmup`` at step 0 to ``rate`` at step ``warmup - 1``, followed by ``decay``."""
    if not warmup:
        return decay
    return optax.join_schedules([optax.linear_schedule(rate / warmup, rate, max(warmup - 1, 1)), decay], [warmup])
