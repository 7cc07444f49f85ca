"""Losses of vector-quantised image tokenizers."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def commitment(x: Float[Array, "... c"], nearest: Float[Array, "... c"]) -> Float[Array, ""]:
    """Compute the commitment loss, the mean of (x - sg[e])^2 (arXiv 1711.00937, equation 3, third term).

    It pulls encoder outputs x to their codes' vectors e.
    """
    return jnp.square(x.astype(jnp.float32) - jax.lax.stop_gradient(nearest).astype(jnp.float32)).mean()


def entropy_loss(distances: Float[Array, "n K"], temperature: float) -> Float[Array, ""]:
    """Compute the entropy penalty of Yu et al. 2023 (arXiv 2310.05737, section 3.2), in nats; an option of LlamaGen.

    It is E[H(p)] - H(E[p]) with p = softmax(-distances / temperature) per row. It is least if every row is certain of
    its code and all codes are used equally.
    """
    log_share = jax.nn.log_softmax(-distances.astype(jnp.float32) / temperature, axis=-1)  # [n K]
    share = jnp.exp(log_share)
    mean = share.mean(axis=0)  # [K]
    return -(share * log_share).sum(-1).mean() + (mean * jnp.log(mean + 1e-5)).sum()


def reconstruction(
    pixels: Float[Array, "B H W C"], drawn: Float[Array, "B H W C"], *, absolute: float, squared: float
) -> Float[Array, ""]:
    """Compute ``absolute`` times the mean absolute error of ``drawn`` plus ``squared`` times its mean squared error."""
    difference = drawn.astype(jnp.float32) - pixels.astype(jnp.float32)
    return absolute * jnp.abs(difference).mean() + squared * jnp.square(difference).mean()
