"""Rectified flow on vectors: noising, and sampling with a network that predicts x0 (arXiv 2209.03003)."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Key

PredictStart: TypeAlias = Callable[[Float[Array, "B E"], Float[Array, " B"]], Float[Array, "B E"]]
"""``predict(x, time)`` predicts x0 from ``x = time x0 + (1 - time) noise``."""


def noised_vectors(
    clean: Float[Array, "B E"], noise: Float[Array, "B E"], time: Float[Array, " B"]
) -> Float[Array, "B E"]:
    """Return ``t clean + (1 - t) noise``."""
    return time[:, None] * clean + (1 - time[:, None]) * noise


def sample_vectors(predict: PredictStart, keys: Key[Array, " B"], width: int, steps: int) -> Float[Array, "B E"]:
    """Sample vectors by Euler steps of the probability-flow ODE; the noise of a row depends on its key alone."""
    x = jax.vmap(lambda key: jax.random.normal(key, (width,)))(keys)  # [B E]

    def step(x: Array, time: Array) -> tuple[Array, None]:
        start = predict(x, jnp.broadcast_to(time, x.shape[:1]))
        return x + (start - x) / (steps * (1 - time)), None

    return jax.lax.scan(step, x, jnp.arange(steps) / steps)[0]
