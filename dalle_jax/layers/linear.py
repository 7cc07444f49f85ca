"""A linear layer whose matrix product is laid out for the platform that it runs on.

XLA on a CPU computes the weight gradient of a product over [B L D] three times slower than the same product over
[B*L D] (docs/architecture.md), so there forward and gradients are 2-D products. Accelerators get one dot_general over
the parameter's own shape, which keeps the sharding of every dimension visible.
"""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.parallel.layout import platform

Initializer: TypeAlias = Callable[..., Array]


@jax.custom_vjp
def flat_matmul(x: Float[Array, "... D"], kernel: Float[Array, "D F"]) -> Float[Array, "... F"]:
    """``x @ kernel`` whose forward and gradients are 2-D products; the barriers keep XLA from undoing the reshape."""
    flat = x.reshape(-1, x.shape[-1])  # [B D]
    return (flat @ kernel).reshape(*x.shape[:-1], kernel.shape[-1])


def _flat_matmul_forward(x: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return flat_matmul(x, kernel), (x, kernel)


def _flat_matmul_backward(residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    flat_x = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]))  # [B D]
    flat_gradient = jax.lax.optimization_barrier(gradient.reshape(-1, gradient.shape[-1]))  # [B F]
    return (flat_gradient @ kernel.T).reshape(x.shape), flat_x.T @ flat_gradient


flat_matmul.defvjp(_flat_matmul_forward, _flat_matmul_backward)


def project(x: Float[Array, "..."], kernel: Float[Array, "..."], inputs: int) -> Float[Array, "..."]:
    """Contracts the last ``inputs`` dimensions of ``x`` with the first ``inputs`` of ``kernel``."""
    lead, out_shape = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
    if platform() != "cpu":
        x_axes = tuple(range(x.ndim - inputs, x.ndim))
        return jax.lax.dot_general(x, kernel, ((x_axes, tuple(range(inputs))), ((), ())))
    width = math.prod(kernel.shape[:inputs])
    product = flat_matmul(x.reshape(*lead, width), kernel.reshape(width, -1))  # [... F]
    return product.reshape(*lead, *out_shape)


class Linear(nnx.Module):
    """``y = x W + b`` from the trailing dimensions ``in_shape`` to ``out_shape``.

    ``axes`` names the dimensions of the kernel, [*in_shape, *out_shape]. ``init`` is called with the 2-D shape
    (all inputs, all outputs); the default is normal with standard deviation 1 / sqrt(inputs).
    """

    def __init__(
        self,
        in_shape: int | tuple[int, ...],
        out_shape: int | tuple[int, ...],
        *,
        axes: tuple[str | None, ...],
        dtype: Any = jnp.float32,
        bias: bool = True,
        init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        ins = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        outs = (out_shape,) if isinstance(out_shape, int) else tuple(out_shape)
        if len(axes) != len(ins) + len(outs):
            raise ValueError(f"a kernel of shape {(*ins, *outs)} needs {len(ins) + len(outs)} axes, got {axes}")
        fan_in, fan_out = math.prod(ins), math.prod(outs)
        init = init or nnx.initializers.normal(fan_in**-0.5)
        kernel = init(rngs.params(), (fan_in, fan_out), jnp.float32).reshape(*ins, *outs)
        self.inputs = len(ins)
        self.dtype = jnp.dtype(dtype)
        self.kernel = nnx.Param(kernel, axes=tuple(axes))
        self.bias = nnx.Param(jnp.zeros(outs, jnp.float32), axes=tuple(axes[len(ins) :])) if bias else None

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """[... *in_shape] to [... *out_shape], computed in ``dtype``."""
        y = project(x.astype(self.dtype), self.kernel[...].astype(self.dtype), self.inputs)
        return y if self.bias is None else y + self.bias[...].astype(self.dtype)
