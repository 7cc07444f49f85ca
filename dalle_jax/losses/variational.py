"""Discrete latent variables: the Gumbel-softmax relaxation and the divergence from a uniform prior."""

import math

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Key


def gumbel_softmax(
    logits: Float[Array, "... K"], temperature: Float[Array, ""], key: Key[Array, ""]
) -> Float[Array, "... K"]:
    """A relaxed sample of a categorical distribution, one-hot as the temperature goes to 0 (arXiv 1611.01144)."""
    logits = logits.astype(jnp.float32)
    return jax.nn.softmax((logits + jax.random.gumbel(key, logits.shape)) / temperature, axis=-1)


def kl_from_uniform(logits: Float[Array, "... K"]) -> Float[Array, "..."]:
    """KL(softmax(logits) || uniform) in nats, from 0 to ln K."""
    log_share = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return (jnp.exp(log_share) * log_share).sum(-1) + math.log(logits.shape[-1])
