"""The Gumbel-softmax relaxation and KL divergences of a discrete VAE with a uniform prior."""

import math

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Key


def gumbel_softmax(
    logits: Float[Array, "... K"], temperature: Float[Array, ""], key: Key[Array, ""]
) -> Float[Array, "... K"]:
    """Draw a relaxed categorical sample (Jang et al. 2016, arXiv 1611.01144); one-hot as the temperature goes to 0."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / temperature, axis=-1)


def kl_from_uniform(logits: Float[Array, "... K"]) -> Float[Array, "..."]:
    """Compute KL(softmax(logits) || uniform) in nats, from 0 to ln K."""
    log_share = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return (jnp.exp(log_share) * log_share).sum(-1) + math.log(logits.shape[-1])


def marginal_kl_from_uniform(logits: Float[Array, "... K"]) -> Float[Array, ""]:
    """Compute KL(mean of softmax(logits) || uniform) in nats: 0 if all codes are used equally, ln K if only one is.

    The mean of ``kl_from_uniform`` equals this plus the mutual information of code and position.
    """
    shares = jax.nn.softmax(logits.astype(jnp.float32), axis=-1).mean(range(logits.ndim - 1))
    return (shares * jnp.log(jnp.maximum(shares, 1e-20))).sum() + math.log(logits.shape[-1])
