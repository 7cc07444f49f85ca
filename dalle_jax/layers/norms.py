"""Layer, group and root-mean-square normalisation in float32."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float
from dalle_jax.parallel.axes import CHANNELS, EMBED


class NormParam(nnx.Param):
    """The scale or bias of a norm. Fine-tuning may train only embeddings and norms (train/optim/parameter_masks.py)."""


def normalize(x: Float[Array, "... D"], epsilon: float) -> Float[Array, "... D"]:
    """Normalise to zero mean and unit variance over the last dimension, in float32."""
    x = x.astype(jnp.float32)
    centred = x - x.mean(axis=-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred * centred).mean(axis=-1, keepdims=True) + epsilon)


class LayerNorm(nnx.Module):
    """Layer normalisation over the last dimension, with a learned ``scale`` and ``bias`` if set."""

    def __init__(
        self,
        size: int,
        *,
        scale: bool = True,
        bias: bool = True,
        epsilon: float = 1e-5,
        axes: tuple[str | None, ...] = (EMBED,),
        dtype: DTypeLike = jnp.float32,
    ):
        self.epsilon = epsilon
        self.dtype = jnp.dtype(dtype)
        self.scale = NormParam(jnp.ones(size, jnp.float32), axes=axes) if scale else None
        self.bias = NormParam(jnp.zeros(size, jnp.float32), axes=axes) if bias else None

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise, scale and shift ``x``; statistics are in float32, the result in ``dtype``."""
        y = normalize(x, self.epsilon)
        if self.scale is not None:
            y = y * self.scale[...]
        if self.bias is not None:
            y = y + self.bias[...]
        return y.astype(self.dtype)


class GroupNorm(nnx.Module):
    """Group normalisation (Wu and He 2018, arXiv 1803.08494): over all positions and a group of adjacent channels."""

    def __init__(self, channels: int, *, groups: int = 32, epsilon: float, dtype: DTypeLike = jnp.float32):
        if channels % groups:
            raise ValueError(f"channels: expected a multiple of groups={groups}, got {channels}")
        self.groups, self.epsilon = groups, epsilon
        self.dtype = jnp.dtype(dtype)
        self.scale = NormParam(jnp.ones(channels, jnp.float32), axes=(CHANNELS,))
        self.bias = NormParam(jnp.zeros(channels, jnp.float32), axes=(CHANNELS,))

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Normalise, scale and shift ``x``; statistics are in float32, the result in ``dtype``."""
        grouped = x.astype(jnp.float32).reshape(*x.shape[:3], self.groups, -1)  # [B H W g c]
        centred = grouped - grouped.mean(axis=(1, 2, 4), keepdims=True)
        variance = (centred * centred).mean(axis=(1, 2, 4), keepdims=True)
        y = (centred * jax.lax.rsqrt(variance + self.epsilon)).reshape(x.shape)
        return (y * self.scale[...] + self.bias[...]).astype(self.dtype)


class RmsNorm(nnx.Module):
    """RMSNorm (Zhang and Sennrich 2019, arXiv 1910.07467) over the last dimension, with a learned scale."""

    def __init__(self, size: int, *, epsilon: float = 1e-5, dtype: DTypeLike = jnp.float32):
        self.epsilon = epsilon
        self.dtype = jnp.dtype(dtype)
        self.scale = NormParam(jnp.ones(size, jnp.float32), axes=(EMBED,))

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Normalise and scale ``x``; statistics are in float32, the result in ``dtype``."""
        x = x.astype(jnp.float32)
        y = x * jax.lax.rsqrt((x * x).mean(axis=-1, keepdims=True) + self.epsilon)
        return (y * self.scale[...]).astype(self.dtype)
