"""The dtype in which devices sum the gradients of parameters.

If a block casts its float32 weights to bfloat16, JAX computes the gradients of the weights in bfloat16. The devices sum
these gradients before JAX casts them back to float32. Such a sum needs half the traffic between devices, but has only 8
significant bits. ``gradient_dtype`` decides which dtype is used: the layers that multiply to get a parameter's gradient
(layers/linear.py, conv_blocks.py, embeddings.py) read it here.

With "float32", every task sums all of its gradients in float32, never in bfloat16 (tests/parallel/test_reduction.py).
With "bfloat16", a training step that XLA compiles for a TPU v5e:2x2 sums gradients in bfloat16. A step compiled for
CPUs still sums them in float32.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Literal, TypeAlias

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array

ReduceDtype: TypeAlias = Literal["float32", "bfloat16"]

_dtype: contextvars.ContextVar[ReduceDtype] = contextvars.ContextVar("reduce_dtype", default="float32")


@contextlib.contextmanager
def gradients_summed_in(dtype: ReduceDtype) -> Iterator[None]:
    """Compute and sum the gradients of parameters in ``dtype`` wherever code inside the context differentiates."""
    token = _dtype.set(dtype)
    try:
        yield
    finally:
        _dtype.reset(token)


def gradient_dtype() -> np.dtype:
    """Return the dtype in which layers compute the gradients of their parameters."""
    return jnp.dtype(_dtype.get())


def cast_for_sum(summed_in: str, *operands: Array) -> tuple[Array, ...]:
    """Cast the arrays whose product is a gradient to bfloat16 if ``summed_in`` is "bfloat16".

    With "float32" they are returned unchanged.
    """
    return tuple(one.astype(summed_in) for one in operands) if summed_in == "bfloat16" else operands
