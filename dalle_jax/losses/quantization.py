"""What an image tokenizer is trained on besides its pictures, and how much of its codebook it uses."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def commitment(x: Float[Array, "... c"], nearest: Float[Array, "... c"]) -> Float[Array, ""]:
    """Mean of (x - e)^2, which pulls encoder outputs to their codes (arXiv 1711.00937, equation 3, third term)."""
    return jnp.square(x.astype(jnp.float32) - jax.lax.stop_gradient(nearest).astype(jnp.float32)).mean()


def reconstruction(
    pixels: Float[Array, "B H W C"], drawn: Float[Array, "B H W C"], *, absolute: float, squared: float
) -> Float[Array, ""]:
    """``absolute`` times the mean of |difference| plus ``squared`` times that of its square, per pixel and channel."""
    difference = drawn.astype(jnp.float32) - pixels.astype(jnp.float32)
    return absolute * jnp.abs(difference).mean() + squared * jnp.square(difference).mean()


def perplexity(histogram: Float[Array, " K"]) -> Float[Array, ""]:
    """exp(entropy) of the codes' frequencies: from 1 (one code does all) to K (all alike)."""
    share = histogram / jnp.maximum(histogram.sum(), 1e-20)
    return jnp.exp(-jax.scipy.special.xlogy(share, share).sum())


def usage(histogram: Float[Array, " K"]) -> Float[Array, ""]:
    """The share of the codebook that occurs at all."""
    return (histogram > 0).mean()
