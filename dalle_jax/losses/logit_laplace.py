"""The logit-Laplace likelihood of pixels (Ramesh et al. 2021, arXiv 2102.12092, appendix A.3).

If the logit of x in (0, 1) has a Laplace distribution with mean mu and scale b, x has the density

    f(x | mu, b) = 1 / (2 b x (1 - x)) exp(-|logit(x) - mu| / b)

Pixels in [0, 1] are first mapped to [epsilon, 1 - epsilon], where the density is finite.
"""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float

EPSILON = 0.1


def map_pixels(pixels: Float[Array, "..."]) -> Float[Array, "..."]:
    """Map [0, 1] to [0.1, 0.9]."""
    return (1.0 - 2.0 * EPSILON) * pixels + EPSILON


def unmap_pixels(mapped: Float[Array, "..."]) -> Float[Array, "..."]:
    """Invert ``map_pixels``, clipped to [0, 1]."""
    return ((mapped - EPSILON) / (1.0 - 2.0 * EPSILON)).clip(0, 1)


def negative_log_likelihood(
    mapped: Float[Array, "..."], mean: Float[Array, "..."], log_scale: Float[Array, "..."]
) -> Float[Array, "..."]:
    """Compute -ln f in nats, in float32; ``mean`` is mu, the mean of the logit, and ``log_scale`` is ln b."""
    x, mean, log_scale = (value.astype(jnp.float32) for value in (mapped, mean, log_scale))
    distance = jnp.abs(jax.scipy.special.logit(x) - mean)
    return jnp.log(2.0) + log_scale + jnp.log(x) + jnp.log1p(-x) + distance * jnp.exp(-log_scale)
