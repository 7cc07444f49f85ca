"""Exponential moving averages (EMA) of the parameters, which evaluation and sampling use.

Variables that are not parameters are copied from the last step, as torch's ``AveragedModel`` copies buffers by default:
a VQ-VAE's codebook and a batch norm's statistics are moving averages already. A VQGAN's codebook is a parameter, so it
is averaged.
"""

from dataclasses import dataclass
from typing import TypeAlias

import jax.numpy as jnp
from jax.typing import ArrayLike

from dalle_jax.arrays import Array


@dataclass(frozen=True)
class ConstantEma:
    """``ema <- decay * ema + (1 - decay) * params`` at every step."""

    decay: float

    def decay_at(self, step: Array) -> ArrayLike:
        """Return the decay of step ``step`` (from 0)."""
        del step
        return self.decay


@dataclass(frozen=True)
class WarmedEma:
    """``ConstantEma`` with decay ``min(decay, (1 + step) / (10 + step))``, which soon forgets untrained weights."""

    decay: float

    def decay_at(self, step: Array) -> ArrayLike:
        """Return the decay of step ``step`` (from 0)."""
        t = step.astype(jnp.float32)
        return jnp.minimum(self.decay, (1.0 + t) / (10.0 + t))


@dataclass(frozen=True)
class PeriodicEma:
    """``ConstantEma`` updated once every ``every`` steps (exponentially weighted iterate averaging).

    DALL·E 1's transformer used decay 0.99 every 25 updates (arXiv 2102.12092, appendix B); its dVAE was averaged at
    every update.
    """

    decay: float = 0.99
    every: int = 25

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"every: expected at least 1 step, got {self.every}")

    def decay_at(self, step: Array) -> ArrayLike:
        """Return the decay at steps ``every - 1``, ``2 every - 1``, ..., and 1 (no change) at all other steps."""
        return jnp.where((step + 1) % self.every == 0, self.decay, 1.0)


Ema: TypeAlias = ConstantEma | WarmedEma | PeriodicEma


def update(ema: Ema, ema_params: dict[str, Array], params: dict[str, Array], step: Array) -> dict[str, Array]:
    """Return the EMA parameters after one more step."""
    decay = ema.decay_at(step)
    return {name: value + (1.0 - decay) * (params[name] - value) for name, value in ema_params.items()}
