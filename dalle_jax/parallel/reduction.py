"""In which dtype the gradients of parameters are summed over devices.

Where weights are cast to bfloat16 inside a block, the gradient of a weight leaves its product in bfloat16 and is summed
over devices as it is, before anything makes it float32: half the bytes, and 8 bits of each sum. The products that make
gradients of parameters (layers/linear.py, layers/conv_blocks.py, layers/embeddings.py) therefore ask here what to give.

With float32 no collective of any task sums in less (tests/parallel/test_reduction.py). With bfloat16 the gradients
leave their products so, but XLA on a CPU still sums float32; the program for a TPU has not been looked at.
"""

import contextlib
import contextvars
from collections.abc import Iterator
from typing import Any, Literal, TypeAlias

import jax.numpy as jnp

from dalle_jax.arrays import Array

ReduceDtype: TypeAlias = Literal["float32", "bfloat16"]

_dtype: contextvars.ContextVar[ReduceDtype] = contextvars.ContextVar("reduce_dtype", default="float32")


@contextlib.contextmanager
def gradients_summed_in(dtype: ReduceDtype) -> Iterator[None]:
    """What is differentiated inside gives the gradients of its parameters in ``dtype``."""
    token = _dtype.set(dtype)
    try:
        yield
    finally:
        _dtype.reset(token)


def gradient_dtype() -> Any:
    """The dtype in which a gradient should leave the product that makes it."""
    return jnp.dtype(_dtype.get())


def cast_for_sum(summed_in: str, *operands: Array) -> tuple[Array, ...]:
    """Operands of the product that gives a gradient: in bfloat16 where that is summed so, else as they are."""
    return tuple(one.astype(summed_in) for one in operands) if summed_in == "bfloat16" else operands
