"""Classifier-free guidance of an autoregressive model ("super conditioning" in dalle-mini)."""

import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def guide(
    conditional: Float[Array, "P M K"], unconditional: Float[Array, "P M K"], scale: Float[Array, " P"]
) -> Float[Array, "P M K"]:
    """``unconditional + scale * (conditional - unconditional)``; a scale of 1 gives the conditional logits exactly."""
    scale = scale[:, None, None]
    return jnp.where(scale == 1, conditional, unconditional + scale * (conditional - unconditional))
