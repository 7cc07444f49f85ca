"""A linear layer whose matrix product has the form that is fast on the platform.

XLA on a CPU computes the weight gradient of a product over [B L D] three times slower than over [B*L D]
(docs/architecture.md). On a CPU, forward and gradients are therefore 2-D products. Accelerators run one dot_general
over the parameter's own shape, so XLA sees the sharding of every dimension.

Products of float32 operands are float32 on every platform (``precision_of``).
"""

import functools
import math
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float
from dalle_jax.parallel.layout import platform
from dalle_jax.parallel.reduction import cast_for_sum, gradient_dtype

Initializer: TypeAlias = Callable[..., Array]


def precision_of(dtype: DTypeLike) -> jax.lax.Precision | None:
    """Return the precision of products of operands of ``dtype``: HIGHEST for float32, else None.

    By default a TPU rounds float32 operands to bfloat16, and an NVIDIA GPU to TF32. Codes then differ between
    machines. A model that may be computed in less precision has dtype bfloat16, whose products need no choice.
    """
    return jax.lax.Precision.HIGHEST if jnp.dtype(dtype) == jnp.float32 else None


def flat_matmul(
    x: Float[Array, "... D"], kernel: Float[Array, "D F"], out_dtype: str | None = None
) -> Float[Array, "... F"]:
    """Compute ``x @ kernel``, with 2-D products for the output and for both gradients.

    The kernel is cast to x's dtype. ``out_dtype`` is the output's dtype, by default x's. Sums are accumulated in
    float32. The kernel's gradient has dtype ``gradient_dtype()`` when devices sum it.
    """
    return _flat_matmul(x, kernel, gradient_dtype().name, out_dtype or x.dtype.name)


def _flat_product(x: Array, kernel: Array, out_dtype: str) -> Array:
    flat = x.reshape(-1, x.shape[-1])  # [B D]
    product = jnp.matmul(
        flat, kernel.astype(x.dtype), precision=precision_of(x.dtype), preferred_element_type=jnp.dtype(out_dtype)
    )
    return product.reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _flat_matmul(x: Array, kernel: Array, summed_in: str, out_dtype: str) -> Array:
    del summed_in
    return _flat_product(x, kernel, out_dtype)


def _flat_matmul_forward(x: Array, kernel: Array, summed_in: str, out_dtype: str) -> tuple[Array, tuple[Array, Array]]:
    del summed_in  # calls _flat_product, since remat's policies see no product inside the custom_vjp
    return _flat_product(x, kernel, out_dtype), (x, kernel)


def _flat_matmul_backward(
    summed_in: str, out_dtype: str, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    del out_dtype
    x, kernel = residuals
    gradient = gradient.astype(x.dtype)
    # The barriers keep XLA from undoing the reshape.
    flat_x = jax.lax.optimization_barrier(x.reshape(-1, x.shape[-1]))  # [B D]
    flat_gradient = jax.lax.optimization_barrier(gradient.reshape(-1, gradient.shape[-1]))  # [B F]
    to_x = jnp.matmul(flat_gradient, kernel.astype(x.dtype).T, precision=precision_of(x.dtype)).reshape(x.shape)
    return to_x, weight_gradient(flat_x, flat_gradient, summed_in).astype(kernel.dtype)


_flat_matmul.defvjp(_flat_matmul_forward, _flat_matmul_backward)


def _product(x: Array, kernel: Array, inputs: int, out_dtype: str) -> Array:
    """Contract the last ``inputs`` dimensions of ``x`` with the first ones of ``kernel`` in one dot_general."""
    axes = ((tuple(range(x.ndim - inputs, x.ndim)), tuple(range(inputs))), ((), ()))
    return jax.lax.dot_general(
        x, kernel.astype(x.dtype), axes, precision=precision_of(x.dtype), preferred_element_type=jnp.dtype(out_dtype)
    )


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _contract(x: Array, kernel: Array, inputs: int, summed_in: str, out_dtype: str) -> Array:
    del summed_in
    return _product(x, kernel, inputs, out_dtype)


def _contract_forward(
    x: Array, kernel: Array, inputs: int, summed_in: str, out_dtype: str
) -> tuple[Array, tuple[Array, Array]]:
    del summed_in
    return _product(x, kernel, inputs, out_dtype), (x, kernel)


def _contract_backward(
    inputs: int, summed_in: str, out_dtype: str, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    del out_dtype
    x, kernel = residuals
    gradient = gradient.astype(x.dtype)
    lead, outs = x.ndim - inputs, kernel.ndim - inputs
    axes = (tuple(range(lead, lead + outs)), tuple(range(inputs, kernel.ndim)))
    to_x = jax.lax.dot_general(gradient, kernel.astype(x.dtype), (axes, ((), ())), precision=precision_of(x.dtype))
    x, gradient = cast_for_sum(summed_in, x, gradient)
    over = (tuple(range(lead)), tuple(range(lead)))
    to_kernel = jax.lax.dot_general(
        x, gradient, (over, ((), ())), precision=precision_of(x.dtype), preferred_element_type=jnp.dtype(summed_in)
    )
    return to_x, to_kernel.astype(kernel.dtype)


_contract.defvjp(_contract_forward, _contract_backward)


def weight_gradient(x: Float[Array, "n D"], gradient: Float[Array, "n F"], summed_in: str) -> Float[Array, "D F"]:
    """Compute ``x^T gradient`` in dtype ``summed_in``, in which devices then sum it."""
    x, gradient = cast_for_sum(summed_in, x, gradient)
    return jnp.matmul(x.T, gradient, precision=precision_of(x.dtype), preferred_element_type=jnp.dtype(summed_in))


def add_bias(x: Float[Array, "..."], bias: Float[Array, "..."]) -> Float[Array, "..."]:
    """Compute ``x + bias`` in x's dtype.

    The bias is broadcast before the cast, so its gradient is summed in its own dtype.
    """
    return x + jnp.broadcast_to(bias, x.shape).astype(x.dtype)


PANEL = 64
"""The number of kernel columns in a panel."""


class Scales(nnx.Variable):
    """The float32 factors of the outputs of a kernel that is stored as int8; not a parameter."""


class Panels(nnx.Variable):
    """A kernel cut into panels of ``PANEL`` columns: a copy in a different memory order, not a parameter."""


def panel_matmul(
    x: Float[Array, "... D"], panels: Float[Array, "n D c"], columns: int, out_dtype: str | None = None
) -> Float[Array, "... F"]:
    """Compute ``x @ kernel`` for a kernel of F ``columns`` from its panels, each contiguous in memory.

    ``out_dtype`` is as in ``flat_matmul``.
    """
    count, width, _ = panels.shape
    rows = jnp.broadcast_to(x.reshape(-1, width), (count, x.size // width, width))
    axes, out_dtype = (((2,), (1,)), ((0,), (0,))), out_dtype or x.dtype.name
    product = jax.lax.dot_general(
        rows, panels, axes, precision=precision_of(x.dtype), preferred_element_type=jnp.dtype(out_dtype)
    )  # [n B c]
    # A swap of axes would join the loops of what follows, which XLA then does not vectorise.
    joined = jnp.stack([row.reshape(-1) for row in unstack(product, 1)])  # [B n*c]
    return joined[:, :columns].reshape(*x.shape[:-1], columns)


def project(
    x: Float[Array, "..."], kernel: Float[Array, "..."], inputs: int, out_dtype: str | None = None
) -> Float[Array, "..."]:
    """Contract the last ``inputs`` dimensions of ``x`` with the first ones of ``kernel``.

    The kernel is cast to x's dtype inside the custom gradient, so the kernel's gradient has dtype ``gradient_dtype()``.
    ``out_dtype`` is the output's dtype, by default x's.
    """
    lead, out_shape, out_dtype = x.shape[: x.ndim - inputs], kernel.shape[inputs:], out_dtype or x.dtype.name
    if platform() != "cpu":
        return _contract(x, kernel, inputs, gradient_dtype().name, out_dtype)
    width = math.prod(kernel.shape[:inputs])
    product = flat_matmul(x.reshape(*lead, width), kernel.reshape(width, -1), out_dtype)  # [... F]
    return product.reshape(*lead, *out_shape)


def unstack(x: Float[Array, "..."], axis: int) -> tuple[Float[Array, "..."], ...]:
    """Return the slices of ``x`` along an axis.

    The gradient is a concatenation. The gradient of indexing would be a sum of padded arrays.
    """
    parts = jax.lax.split(x, (1,) * x.shape[axis], axis % x.ndim)
    return tuple(jnp.squeeze(part, axis) for part in parts)


class Linear(nnx.Module):
    """A linear layer ``y = x W + b`` from the trailing dimensions ``in_shape`` to ``out_shape``.

    ``axes`` are the logical axes of the kernel, [*in_shape, *out_shape]. ``init`` gets the 2-D shape (all inputs, all
    outputs); the default is normal with standard deviation 1 / sqrt(inputs). Operands have ``dtype``. ``out_dtype`` is
    the dtype of y, by default ``dtype``; with float32, the products of bfloat16 operands are never rounded to bfloat16.
    """

    def __init__(
        self,
        in_shape: int | tuple[int, ...],
        out_shape: int | tuple[int, ...],
        *,
        axes: tuple[str | None, ...],
        dtype: DTypeLike = jnp.float32,
        out_dtype: DTypeLike | None = None,
        bias: bool = True,
        init: Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        ins = (in_shape,) if isinstance(in_shape, int) else tuple(in_shape)
        outs = (out_shape,) if isinstance(out_shape, int) else tuple(out_shape)
        if len(axes) != len(ins) + len(outs):
            raise ValueError(f"axes: expected {len(ins) + len(outs)} for a kernel of shape {(*ins, *outs)}, got {axes}")
        fan_in, fan_out = math.prod(ins), math.prod(outs)
        init = init or nnx.initializers.normal(fan_in**-0.5)
        kernel = init(rngs.params(), (fan_in, fan_out), jnp.float32).reshape(*ins, *outs)
        self.inputs, self.dimensions = len(ins), len(ins) + len(outs)
        self.dtype = jnp.dtype(dtype)
        self.out_dtype = jnp.dtype(dtype if out_dtype is None else out_dtype).name
        self.kernel = nnx.Param(kernel, axes=tuple(axes))
        self.bias = nnx.Param(jnp.zeros(outs, jnp.float32), axes=tuple(axes[len(ins) :])) if bias else None
        self.panels: Panels | None = nnx.data(None)
        self.scales: Scales | None = nnx.data(None)

    def __call__(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """Apply the layer to ``x`` [... *in_shape] and return y [... *out_shape]."""
        x = x.astype(self.dtype)
        out_dtype = self.out_dtype if self.scales is None else "float32"
        if self.panels is None:
            kernel = self.kernel[...] if self.scales is None else self.kernel[...].astype(self.dtype)
            y = project(x, kernel, self.inputs, out_dtype)
        else:
            lead, outs = x.shape[: x.ndim - self.inputs], self.kernel.shape[self.inputs :]
            y = panel_matmul(x.reshape(*lead, -1), self.panels[...], math.prod(outs), out_dtype).reshape(*lead, *outs)
        if self.scales is not None:
            y = (y * self.scales[...]).astype(self.out_dtype)
        return y if self.bias is None else add_bias(y, self.bias[...])

    def quantize(self) -> None:
        """Store the kernel as int8 and a float32 scale per output, for inference: W is about scale * kernel.

        The scale is the largest magnitude of an output's weights over 127 (symmetric). Integers up to 127 are exact in
        bfloat16 and float32, so the product of a pass has no other error than the rounding of the weights. The kernel
        may have leading axes for layers.
        """
        kernel, lead = self.kernel[...].astype(jnp.float32), self.kernel.ndim - self.dimensions
        inputs = tuple(range(lead, lead + self.inputs))
        largest = jnp.abs(kernel).max(axis=inputs, keepdims=True)
        scales = jnp.where(largest == 0, 1.0, largest / 127)
        axes = self.kernel.get_metadata()["axes"][self.inputs :]
        self.kernel.set_value(jnp.round(kernel / scales).astype(jnp.int8))
        self.scales = Scales(jnp.squeeze(scales, inputs), axes=axes)

    def split_into_panels(self, least: int) -> None:
        """Copy a kernel of ``least`` columns or more into panels, for products of few rows.

        The last panel is filled up with zeros. The kernel may have leading axes for layers.
        """
        lead = self.kernel.shape[: self.kernel.ndim - self.dimensions]
        inputs = math.prod(self.kernel.shape[len(lead) : len(lead) + self.inputs])
        columns = self.kernel.size // math.prod(lead) // inputs
        if columns >= least:
            kernel = self.kernel[...].astype(self.dtype).reshape(*lead, inputs, columns)
            kernel = jnp.pad(kernel, [(0, 0)] * (kernel.ndim - 1) + [(0, -columns % PANEL)])
            self.panels = Panels(kernel.reshape(*kernel.shape[:-1], -1, PANEL).swapaxes(-3, -2))
