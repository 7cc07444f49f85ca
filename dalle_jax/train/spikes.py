"""Updates whose gradient norm is far above its running average: told apart, so that they can be skipped."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float

DECAY = 0.99
"""Of the running average: it remembers about the last hundred updates."""


@dataclass(frozen=True)
class SkipSpikes:
    """Skips an update when the global gradient norm of any objective exceeds ``times`` its running average.

    The average is over the updates that were made. The first ``after`` steps are exempt, since norms fall steeply while
    a network begins to learn.
    """

    times: float
    after: int = 100

    def __post_init__(self) -> None:
        if self.times <= 1.0:
            raise ValueError(f"times: expected more than 1, got {self.times}")
        if self.after < 1:
            raise ValueError(f"after: expected at least 1, since the first update has no average, got {self.after}")

    def among(
        self, norms: Mapping[str, Float[Array, ""]], averages: Mapping[str, Array], step: Array, made: Array
    ) -> Bool[Array, ""]:
        """Whether any of the ``norms`` is a spike at ``step`` (from 0), after ``made`` updates."""
        # What ``follow`` starts from, zero, still has DECAY^made of the weight.
        known = jnp.maximum(1.0 - jnp.float32(DECAY) ** made.astype(jnp.float32), 1.0 - DECAY)
        high = [norm > self.times * averages[name] / known for name, norm in norms.items()]
        return jnp.any(jnp.stack(high)) & (step >= self.after) & (made > 0)


def follow(averages: Mapping[str, Array], norms: Mapping[str, Float[Array, ""]]) -> dict[str, Array]:
    """The running averages after one more update."""
    return {name: DECAY * average + (1.0 - DECAY) * norms[name] for name, average in averages.items()}
