"""Updates whose gradient norm is far above its running average: told apart, so that they can be skipped."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int

DECAY = 0.99
"""Of the running average: it remembers about the last hundred updates."""


@dataclass(frozen=True)
class SkipSpikes:
    """Skips an update when the global gradient norm of any objective exceeds ``times`` its running average.

    Each objective has an average of its own, over the updates that gave it a gradient. An update whose norm is exactly
    0 gives none: so it is with a discriminator before ``adversary.start``. The first ``after`` updates of an objective
    are exempt, since norms fall steeply while a network begins to learn.
    """

    times: float
    after: int = 100

    def __post_init__(self) -> None:
        if self.times <= 1.0:
            raise ValueError(f"times: expected more than 1, got {self.times}")
        if self.after < 1:
            raise ValueError(f"after: expected at least 1, since the first update has no average, got {self.after}")

    def among(self, norms: Mapping[str, Float[Array, ""]], followed: "Followed") -> Bool[Array, ""]:
        """Return True if the norm of any objective is a spike beside its earlier ones."""
        spikes = []
        for name, norm in norms.items():
            count = followed.counts[name]
            # The average starts from zero, which still has DECAY^count of the weight.
            known = jnp.maximum(1.0 - jnp.float32(DECAY) ** count.astype(jnp.float32), 1.0 - DECAY)
            spikes.append((norm > self.times * followed.averages[name] / known) & (count >= self.after))
        return jnp.any(jnp.stack(spikes))


class Followed(NamedTuple):
    """Gradient norms so far by objective: running averages that start from 0, and the number of norms in each."""

    averages: dict[str, Float[Array, ""]]
    counts: dict[str, Int[Array, ""]]

    @classmethod
    def none(cls, names: Iterable[str]) -> "Followed":
        """Return the state before the first update."""
        names = tuple(names)
        return cls({name: jnp.zeros(()) for name in names}, {name: jnp.zeros((), jnp.int32) for name in names})

    def add(self, norms: Mapping[str, Float[Array, ""]]) -> "Followed":
        """Return the state after one more update; a norm of 0 leaves its objective as it was."""
        averages, counts = {}, {}
        for name, average in self.averages.items():
            given = norms[name] > 0
            averages[name] = jnp.where(given, DECAY * average + (1.0 - DECAY) * norms[name], average)
            counts[name] = self.counts[name] + given.astype(jnp.int32)
        return Followed(averages, counts)
