"""Learning rates as functions of the step: a closed union of small dataclasses.

Warm-ups are linear. The rates of the published models:

    DALL·E 1, dVAE (arXiv 2102.12092, appendix A)         CosineRate(1e-4, final=1/80) over 1,200,000 steps
    DALL·E 1, transformer (appendix B)                    PlateauRate(4.5e-4, warmup=5000, lowest=1/32)
    DALL·E mini and mega (their training journal)         ConstantRate(1e-4, warmup=10_000), later ExponentialRate
    CLIP (arXiv 2103.00020, section 2.5)                  CosineRate(5e-4) over 32 epochs
"""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax


@dataclass(frozen=True)
class ConstantRate:
    """``rate`` after a linear warm-up of ``warmup`` steps."""

    rate: float
    warmup: int = 0

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) of ``steps``; float64 with numpy, float32 inside the train step."""
        del steps
        return self.rate * _warmup(step, self.warmup, xp)


@dataclass(frozen=True)
class CosineRate:
    """Warm-up to ``rate``, then half a cosine down to ``final * rate`` at the last step (arXiv 1608.03983)."""

    rate: float
    warmup: int = 0
    final: float = 0.0

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) of ``steps``."""
        done = _share_done(step, self.warmup, steps, xp)
        share = self.final + (1.0 - self.final) * 0.5 * (1.0 + xp.cos(math.pi * done))
        return self.rate * _warmup(step, self.warmup, xp) * share


@dataclass(frozen=True)
class LinearRate:
    """Warm-up to ``rate``, then a straight line down to ``final * rate`` at the last step."""

    rate: float
    warmup: int = 0
    final: float = 0.0

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) of ``steps``."""
        share = 1.0 - (1.0 - self.final) * _share_done(step, self.warmup, steps, xp)
        return self.rate * _warmup(step, self.warmup, xp) * share


@dataclass(frozen=True)
class InverseRootRate:
    """Warm-up to ``rate``, then ``rate * sqrt(warmup / step)`` (arXiv 1706.03762, section 5.3)."""

    rate: float
    warmup: int

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) of ``steps``."""
        del steps
        start = max(self.warmup, 1)
        return self.rate * _warmup(step, self.warmup, xp) * xp.sqrt(start / xp.maximum(step + 1.0, start))


@dataclass(frozen=True)
class RsqrtRate:
    """Warm-up to ``rate``, then ``rate / sqrt(1 + steps since / timescale)`` (arXiv 2106.04560, appendix).

    The last ``cooldown`` steps go down to 0 in a straight line. With ``timescale`` equal to ``warmup`` and no cooldown
    it is ``InverseRootRate``.
    """

    rate: float
    warmup: int = 0
    timescale: int = 10_000
    cooldown: int = 0

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) of ``steps``."""
        since = xp.maximum(step + 1.0 - self.warmup, 0.0)
        share = xp.clip((steps - step) / max(self.cooldown, 1), 0.0, 1.0) if self.cooldown else 1.0
        return self.rate * _warmup(step, self.warmup, xp) * share / xp.sqrt(1.0 + since / self.timescale)


@dataclass(frozen=True)
class ExponentialRate:
    """Warm-up to ``rate``, then times ``factor`` every ``every`` steps: gradually or, with ``stairs``, at once."""

    rate: float
    factor: float
    every: int
    warmup: int = 0
    stairs: bool = False

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) of ``steps``."""
        del steps
        times = xp.maximum(step - self.warmup, 0.0) / self.every
        return self.rate * _warmup(step, self.warmup, xp) * self.factor ** (xp.floor(times) if self.stairs else times)


@dataclass(frozen=True)
class PlateauRate:
    """Warm-up to ``rate``, then times ``factor`` each time that the training loss stops falling, down to ``lowest``.

    DALL·E 1's transformer halved its rate five times, to 1/32 (arXiv 2102.12092, appendix B); when it counted a plateau
    is not published. Here the loss is averaged over windows of ``window`` steps, and a plateau is ``patience`` windows
    in a row without one below ``1 - threshold`` of the best, which is optax.contrib.reduce_on_plateau.
    """

    rate: float
    warmup: int = 0
    factor: float = 0.5
    lowest: float = 1 / 32
    window: int = 1000
    patience: int = 5
    threshold: float = 1e-3

    def __post_init__(self) -> None:
        for name in ("factor", "lowest", "threshold"):
            if not 0.0 < getattr(self, name) < 1.0:
                raise ValueError(f"{name}: expected a share between 0 and 1, got {getattr(self, name)}")
        for name in ("window", "patience"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) before the first plateau."""
        del steps
        return self.rate * _warmup(step, self.warmup, xp)

    def follower(self) -> optax.GradientTransformationExtraArgs:
        """What watches the loss; its state is part of the training state."""
        return optax.contrib.reduce_on_plateau(
            factor=self.factor,
            patience=self.patience,
            rtol=self.threshold,
            accumulation_size=self.window,
            min_scale=self.lowest,
        )


Plain: TypeAlias = ConstantRate | CosineRate | LinearRate | InverseRootRate | RsqrtRate | ExponentialRate


@dataclass(frozen=True)
class JoinedRate:
    """``first`` for ``until`` steps, as if these were all, and ``then`` from there on, as if it began there.

    ``then`` may be joined of two again.
    """

    first: Plain
    until: int
    then: "Plain | JoinedRate"

    @property
    def warmup(self) -> int:
        """That of ``first``."""
        return self.first.warmup

    def value(self, step: Any, steps: int, xp: ModuleType = np) -> Any:
        """The rate of step ``step`` (from 0) of ``steps``."""
        before = self.first.value(step, self.until, xp)
        after = self.then.value(xp.maximum(step - self.until, 0), steps - self.until, xp)
        return xp.where(step < self.until, before, after)


Schedule: TypeAlias = Plain | PlateauRate | JoinedRate


def in_step(schedule: Schedule, step: Any, steps: int, state: Any = ()) -> Any:
    """The rate as traced float32; ``state`` is what ``first_state`` and ``next_state`` gave."""
    rate = jnp.asarray(schedule.value(step.astype(jnp.float32), steps, jnp), jnp.float32)
    return rate * state.scale if isinstance(schedule, PlateauRate) else rate


def first_state(schedule: Schedule) -> Any:
    """What a schedule remembers at step 0: scalars of a PlateauRate, nothing of the others."""
    return schedule.follower().init({"loss": jnp.zeros(())}) if isinstance(schedule, PlateauRate) else ()


def next_state(schedule: Schedule, state: Any, step: Any, loss: Any) -> Any:
    """What it remembers after a step of that loss; losses of the warm-up do not count."""
    if not isinstance(schedule, PlateauRate):
        return state
    followed = schedule.follower().update({}, state, value=loss)[1]
    return jax.tree.map(lambda new, old: jnp.where(step >= schedule.warmup, new, old), followed, state)


def _warmup(step: Any, warmup: int, xp: ModuleType) -> Any:
    """From 1 / warmup at step 0 to 1 at step warmup - 1."""
    return xp.minimum(1.0, (step + 1.0) / max(warmup, 1))


def _share_done(step: Any, warmup: int, steps: int, xp: ModuleType) -> Any:
    """0 until the warm-up ends, 1 at step ``steps``."""
    return xp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
