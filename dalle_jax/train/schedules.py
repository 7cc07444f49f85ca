"""Learning rates as functions of the step: a closed union of small dataclasses."""

import math
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np


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


Schedule: TypeAlias = ConstantRate | CosineRate | LinearRate | InverseRootRate


def in_step(schedule: Schedule, step: Any, steps: int) -> Any:
    """The rate as traced float32."""
    return jnp.asarray(schedule.value(step.astype(jnp.float32), steps, jnp), jnp.float32)


def _warmup(step: Any, warmup: int, xp: ModuleType) -> Any:
    """From 1 / warmup at step 0 to 1 at step warmup - 1."""
    return xp.minimum(1.0, (step + 1.0) / max(warmup, 1))


def _share_done(step: Any, warmup: int, steps: int, xp: ModuleType) -> Any:
    """0 until the warm-up ends, 1 at step ``steps``."""
    return xp.clip((step - warmup) / max(steps - warmup, 1), 0.0, 1.0)
