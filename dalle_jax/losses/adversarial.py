"""What a discriminator and its opponent are trained on (Esser et al. 2021, arXiv 2012.09841, section 3.1)."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def hinge_loss(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """The discriminator's loss: real ones to 1 and above, fakes to -1 and below."""
    return 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())


def adaptive_weight(of_likeness: Float[Array, "..."], of_fooling: Float[Array, "..."]) -> Float[Array, ""]:
    """How much the opponent's loss is weighed, from the gradients of both losses on the decoder's last layer (eq. 7).

    The ratio of their norms, between 0 and 10,000.
    """
    norms = [jnp.sqrt(jnp.square(one.astype(jnp.float32)).sum()) for one in (of_likeness, of_fooling)]
    return (norms[0] / (norms[1] + 1e-4)).clip(0.0, 1e4)


def discriminator_factor(step: Array, start: int) -> Float[Array, ""]:
    """0 before step ``start``, 1 from there on: the discriminator plays no part while pictures are still noise."""
    return (step >= start).astype(jnp.float32)


def pyramid_distance(one: Float[Array, "B H W C"], other: Float[Array, "B H W C"], levels: int) -> Float[Array, " B"]:
    """The mean over ``levels`` sizes, each half of the one before, of how much the differences of neighbours differ.

    At each size the mean of |difference| over all pairs of pixels that stand side by side or one above the other: edges
    count, and where they are matters the less the smaller the picture has become.
    """
    x = one - other  # [B H W C]
    total = jnp.zeros(x.shape[0])
    for level in range(levels):
        if level:
            batch, height, width, channels = x.shape
            x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        across = jnp.abs(x[:, :, 1:] - x[:, :, :-1]).mean(axis=(1, 2, 3))
        down = jnp.abs(x[:, 1:] - x[:, :-1]).mean(axis=(1, 2, 3))
        total = total + (across + down) / levels
    return total
