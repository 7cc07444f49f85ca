"""Dropout, drawn from a key that is handed in (Srivastava et al. 2014)."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Key


def dropout(x: Float[Array, "..."], rate: float, key: Key[Array, ""] | None) -> Float[Array, "..."]:
    """Zeroes a share ``rate`` of the values and scales the rest up; the identity with no key."""
    if key is None or rate == 0.0:
        return x
    keep = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))
