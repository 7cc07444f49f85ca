"""What an image tokenizer is trained on besides its pictures, and how much of its codebook it uses."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def commitment(x: Float[Array, "... c"], nearest: Float[Array, "... c"]) -> Float[Array, ""]:
    """Mean of (x - e)^2, which pulls encoder outputs to their codes (arXiv 1711.00937, equation 3, third term)."""
    return jnp.square(x.astype(jnp.float32) - jax.lax.stop_gradient(nearest).astype(jnp.float32)).mean()


def entropy_loss(distances: Float[Array, "n K"], temperature: float) -> Float[Array, ""]:
    """Mean entropy of each row's choice less the entropy of their mean, in nats: least when each row is sure of its
    code and all codes are in use (Yu et al. 2023, arXiv 2310.05737, section 3.2; LlamaGen's option).

    A row's choice is softmax(-distances / temperature).
    """
    log_share = jax.nn.log_softmax(-distances.astype(jnp.float32) / temperature, axis=-1)  # [n K]
    share = jnp.exp(log_share)
    mean = share.mean(axis=0)  # [K]
    return -(share * log_share).sum(-1).mean() + (mean * jnp.log(mean + 1e-5)).sum()


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
