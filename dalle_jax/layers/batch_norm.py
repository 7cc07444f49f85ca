"""Batch normalisation (Ioffe and Szegedy 2015, arXiv 1502.03167) in float32, over the global batch of all devices."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.norms import NormParam

EPSILON = 1e-5
MOMENTUM = 0.1


class Statistics(nnx.Variable):
    """A running mean or variance: not a parameter, but part of the state that the train step updates."""


class BatchNorm(nnx.Module):
    """Normalisation of each channel, with the batch's statistics in training and the running ones otherwise."""

    def __init__(
        self, channels: int, *, axes: tuple[str | None, ...], epsilon: float = EPSILON, dtype: DTypeLike = jnp.float32
    ):
        self.dtype = jnp.dtype(dtype)
        self.epsilon = epsilon
        self.scale = NormParam(jnp.ones(channels, jnp.float32), axes=axes)
        self.bias = NormParam(jnp.zeros(channels, jnp.float32), axes=axes)
        self.mean = Statistics(jnp.zeros(channels, jnp.float32), axes=axes)
        self.variance = Statistics(jnp.ones(channels, jnp.float32), axes=axes)

    def __call__(self, x: Float[Array, "... C"], train: bool) -> Float[Array, "... C"]:
        """Normalise ``x``; with ``train``, also update the running statistics (unbiased variance, as in torch)."""
        x = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.variance[...]
        if train:
            flat = x.reshape(-1, x.shape[-1])  # [n C]
            mean, variance = flat.mean(axis=0), flat.var(axis=0)
            unbiased = variance * (flat.shape[0] / max(flat.shape[0] - 1, 1))
            self.mean[...] = _moving_average(self.mean[...], mean)
            self.variance[...] = _moving_average(self.variance[...], unbiased)
        y = (x - mean) * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]
        return y.astype(self.dtype)


def _moving_average(old: Float[Array, " C"], new: Float[Array, " C"]) -> Float[Array, " C"]:
    return (1 - MOMENTUM) * old + MOMENTUM * jax.lax.stop_gradient(new)
