"""The dtype in which devices sum the gradients of parameters.

If weights are cast to bfloat16 inside a block, JAX computes their gradients in bfloat16. Devices then sum them before
the cast back to float32, with half the traffic, but with 8 significant bits. The products that compute gradients of
parameters (layers/linear.py, conv_blocks.py, embeddings.py) therefore take their dtype from here.

With "float32", no task sums a gradient in less (tests/parallel/test_reduction.py). With "bfloat16", the step that XLA
compiles for a TPU v5e:2x2 sums them in bfloat16. XLA on a CPU still sums in float32.
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
    """Compute the gradients of parameters in ``dtype`` for all differentiation inside the context."""
    token = _dtype.set(dtype)
    try:
        yield
    finally:
        _dtype.reset(token)


def gradient_dtype() -> np.dtype:
    """Return the dtype in which a product computes a parameter's gradient."""
    return jnp.dtype(_dtype.get())


def cast_for_sum(summed_in: str, *operands: Array) -> tuple[Array, ...]:
    """Cast the operands of a gradient's product to bfloat16 if ``summed_in`` is bfloat16, else leave them."""
    return tuple(one.astype(summed_in) for one in operands) if summed_in == "bfloat16" else operands
