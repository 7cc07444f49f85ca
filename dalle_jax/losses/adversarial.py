"""What a discriminator and its opponent are trained on (Esser et al. 2021, arXiv 2012.09841, section 3.1)."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def hinge(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """The discriminator's loss: real ones to 1 and above, fakes to -1 and below."""
    return 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())


def adaptive_weight(of_likeness: Float[Array, "..."], of_fooling: Float[Array, "..."]) -> Float[Array, ""]:
    """How much the opponent's loss is weighed, from the gradients of both losses on the decoder's last layer (eq. 7).

    The ratio of their norms, between 0 and 10,000.
    """
    norms = [jnp.sqrt(jnp.square(one.astype(jnp.float32)).sum()) for one in (of_likeness, of_fooling)]
    return (norms[0] / (norms[1] + 1e-4)).clip(0.0, 1e4)


def started(step: Array, start: int) -> Float[Array, ""]:
    """0 before step ``start``, 1 from there on: the discriminator plays no part while pictures are still noise."""
    return (step >= start).astype(jnp.float32)
