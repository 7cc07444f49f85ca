"""Batch normalisation in float32 (arXiv 1502.03167), over the global batch wherever its rows lie."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.norms import NormParam

EPSILON = 1e-5
MOMENTUM = 0.1


class Statistics(nnx.Variable):
    """A running mean or variance: no parameter, carried along by the train step."""


class BatchNorm(nnx.Module):
    """Normalises each channel, by the batch's own statistics in training and else by the running ones."""

    def __init__(self, channels: int, *, axes: tuple[str | None, ...], dtype: Any = jnp.float32):
        self.dtype = jnp.dtype(dtype)
        self.scale = NormParam(jnp.ones(channels, jnp.float32), axes=axes)
        self.bias = NormParam(jnp.zeros(channels, jnp.float32), axes=axes)
        self.mean = Statistics(jnp.zeros(channels, jnp.float32), axes=axes)
        self.variance = Statistics(jnp.ones(channels, jnp.float32), axes=axes)

    def __call__(self, x: Float[Array, "... C"], train: bool) -> Float[Array, "... C"]:
        """With ``train`` it also moves the running statistics, the variance without bias as torch does."""
        x = x.astype(jnp.float32)
        mean, variance = self.mean[...], self.variance[...]
        if train:
            flat = x.reshape(-1, x.shape[-1])  # [n C]
            mean, variance = flat.mean(axis=0), flat.var(axis=0)
            unbiased = variance * (flat.shape[0] / max(flat.shape[0] - 1, 1))
            self.mean[...] = _moved(self.mean[...], mean)
            self.variance[...] = _moved(self.variance[...], unbiased)
        y = (x - mean) * jax.lax.rsqrt(variance + EPSILON) * self.scale[...] + self.bias[...]
        return y.astype(self.dtype)


def _moved(old: Float[Array, " C"], new: Float[Array, " C"]) -> Float[Array, " C"]:
    return (1 - MOMENTUM) * old + MOMENTUM * jax.lax.stop_gradient(new)
