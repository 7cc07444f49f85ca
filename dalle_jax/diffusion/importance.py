"""Importance sampling of timesteps by their losses' second moment (arXiv 2102.09672, section 3.3, equation 18)."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int, Key


class LossHistory(NamedTuple):
    """The last losses of each timestep, newest last, and their number; training carries it as a value."""

    losses: Float[Array, "steps kept"]
    counts: Int[Array, " steps"]

    @classmethod
    def empty(cls, steps: int, kept: int = 10) -> "LossHistory":
        """Create a history without losses; 10 are kept in the paper."""
        return cls(jnp.zeros((steps, kept)), jnp.zeros(steps, jnp.int32))

    def add(self, index: Int[Array, " B"], losses: Float[Array, " B"]) -> "LossHistory":
        """Add the unweighted losses of a batch, in order; a timestep may occur several times."""

        def one(history: LossHistory, row: tuple[Array, Array]) -> tuple[LossHistory, None]:
            at, loss = row
            shifted = jnp.append(history.losses[at, 1:], loss)
            counts = history.counts.at[at].set(jnp.minimum(history.counts[at] + 1, history.losses.shape[1]))
            return LossHistory(history.losses.at[at].set(shifted), counts), None

        return jax.lax.scan(one, self, (index, jax.lax.stop_gradient(losses)))[0]

    def probabilities(self, uniform: float = 0.001) -> Float[Array, " steps"]:
        """Return p(t) ∝ sqrt(E[loss^2]), mixed with a share ``uniform``; uniform until each timestep's row is full."""
        steps, kept = self.losses.shape
        root = jnp.sqrt(jnp.square(self.losses).mean(axis=-1))
        learned = (1 - uniform) * root / jnp.maximum(root.sum(), 1e-30) + uniform / steps
        return jnp.where((self.counts == kept).all(), learned, 1 / steps)

    def draw(self, key: Key[Array, ""], rows: int) -> tuple[Int[Array, " B"], Float[Array, " B"]]:
        """Draw timesteps, and the weights 1 / (steps p(t)) that keep the expected loss of uniform timesteps."""
        p = self.probabilities()
        index = jax.random.categorical(key, jnp.log(p), shape=(rows,))
        return index, 1 / (p.shape[0] * p[index])
