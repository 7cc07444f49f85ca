"""Detection of gradient spikes: updates whose gradient norm is far above its running average."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int

DECAY = 0.99
"""The decay of the running average, which covers about the last hundred updates."""


@dataclass(frozen=True)
class SkipSpikes:
    """Skipping of updates in which the gradient norm of an objective exceeds ``times`` its running average.

    Each objective has its own average, over updates with a gradient. A norm of exactly 0 does not count, such as a
    discriminator's before ``adversary.start``. The first ``after`` updates of an objective are exempt, since norms fall
    steeply while a network begins to learn.
    """

    times: float
    after: int = 100

    def __post_init__(self) -> None:
        if self.times <= 1.0:
            raise ValueError(f"times: expected more than 1, got {self.times}")
        if self.after < 1:
            raise ValueError(f"after: expected at least 1, since the first update has no average, got {self.after}")

    def among(self, norms: Mapping[str, Float[Array, ""]], running: "RunningNorms") -> Bool[Array, ""]:
        """Return True if the norm of any objective is a spike compared with its earlier norms."""
        spikes = []
        for name, norm in norms.items():
            count = running.counts[name]
            # The average starts at 0, which still has the weight DECAY^count.
            known = jnp.maximum(1.0 - jnp.float32(DECAY) ** count.astype(jnp.float32), 1.0 - DECAY)
            spikes.append((norm > self.times * running.averages[name] / known) & (count >= self.after))
        return jnp.any(jnp.stack(spikes))


class RunningNorms(NamedTuple):
    """Running averages of gradient norms by objective, which start at 0, and the number of norms in each."""

    averages: dict[str, Float[Array, ""]]
    counts: dict[str, Int[Array, ""]]

    @classmethod
    def none(cls, names: Iterable[str]) -> "RunningNorms":
        """Return the averages before the first update."""
        names = tuple(names)
        return cls({name: jnp.zeros(()) for name in names}, {name: jnp.zeros((), jnp.int32) for name in names})

    def add(self, norms: Mapping[str, Float[Array, ""]]) -> "RunningNorms":
        """Return the averages after one more update; a norm of 0 leaves its objective's average unchanged."""
        averages, counts = {}, {}
        for name, average in self.averages.items():
            given = norms[name] > 0
            averages[name] = jnp.where(given, DECAY * average + (1.0 - DECAY) * norms[name], average)
            counts[name] = self.counts[name] + given.astype(jnp.int32)
        return RunningNorms(averages, counts)
