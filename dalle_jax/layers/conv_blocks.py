"""Convolutions, computed in the form that is fast on the platform, and a residual block made of them.

Accelerators run ``lax.conv_general_dilated`` unchanged. XLA on a CPU is fast for stride-1 convolutions, but slow for
strides, dilations and kernel gradients (docs/architecture.md). On a CPU every convolution therefore has stride 1:
    strided     space to depth first, then stride 1
    transposed  all phases of the output as channels, then depth to space
    gradient    of the kernel: one matrix product per kernel position
"""

import functools
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.linear import Initializer, add_bias, flat_matmul, precision_of, unstack, weight_gradient
from dalle_jax.parallel.axes import BATCH, CHANNELS, HEIGHT, KERNEL, WIDTH
from dalle_jax.parallel.layout import constrain, platform, whole
from dalle_jax.parallel.reduction import cast_for_sum, gradient_dtype

DIMENSIONS = ("NHWC", "HWIO", "NHWC")
Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]


def space_to_depth(x: Float[Array, "B H W C"], side: int) -> Float[Array, "B h w d"]:
    """Turn squares of ``side`` x ``side`` pixels into channels, ordered (row, column, C)."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // side, side, width // side, side, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height // side, width // side, -1)  # [B h w side*side*C]


def depth_to_space(x: Float[Array, "B h w d"], side: int) -> Float[Array, "B H W C"]:
    """Invert ``space_to_depth``."""
    batch, height, width, depth = x.shape
    x = x.reshape(batch, height, width, side, side, depth // side**2)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, height * side, width * side, -1)  # [B h*side w*side C]


def max_pool(x: Float[Array, "B H W C"]) -> Float[Array, "B h w C"]:
    """Return the maximum of each 2 x 2 square; an odd last row or column is dropped.

    Pairwise comparisons send the gradient to the first of equal values. The gradient of ``jnp.max`` divides by the
    number of values that equal the maximum. That number can be 0 if XLA recomputes x with a different rounding.
    """
    batch, height, width, channels = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    upper, lower = unstack(x.reshape(batch, height // 2, 2, -1), axis=2)  # [B h W*C]
    x = jnp.where(upper >= lower, upper, lower).reshape(batch, height // 2, width // 2, 2, channels)
    left, right = unstack(x, axis=3)  # [B h w C]
    return jnp.where(left >= right, left, right)


def windows(
    x: Float[Array, "B H W C"], combine: Callable[[Array, Array], Array], stride: int
) -> Float[Array, "B h w C"]:
    """Combine the values of each 3 x 3 window, first along columns and then along rows, such as by ``jnp.maximum``."""
    for axis in (1, 2):
        last = (x.shape[axis] - 3) // stride * stride
        parts = [jax.lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(3)]
        x = functools.reduce(combine, parts)
    return x


def upsample(x: Float[Array, "B h w C"]) -> Float[Array, "B H W C"]:
    """Double height and width by repeating each value (nearest neighbour)."""
    batch, height, width, channels = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, 2, width, 2, channels))
    return x.reshape(batch, 2 * height, 2 * width, channels)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Return the "SAME" padding of one dimension, whose output has ceil(size / stride) entries.

    An odd padding has its extra entry at the end.
    """
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def convolve(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k l C F"], *, stride: int = 1, padding: Padding | None = None
) -> Float[Array, "B h w F"]:
    """Convolve ``x`` with the kernel, cast to x's dtype.

    ``padding`` is ((top, bottom), (left, right)); None means "SAME". The kernel of a strided convolution is square.
    """
    (height, width), sides = x.shape[1:3], kernel.shape[:2]
    padding = padding or (same_padding(height, sides[0], stride), same_padding(width, sides[1], stride))
    x = _split(x)
    if platform() != "cpu":
        return _split(_native(x, kernel, stride, padding, 1, gradient_dtype().name))
    if sides == (1, 1) and stride == 1 and padding == ((0, 0), (0, 0)):
        return _split(flat_matmul(x, whole(kernel[0, 0], CHANNELS)))
    return _split(_plain(x, kernel, padding) if stride == 1 else _strided(x, kernel, stride, padding))


def depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "k k 1 C"], *, stride: int = 1, padding: Padding | None = None
) -> Float[Array, "B h w C"]:
    """Convolve each channel with its own kernel. ``padding`` is as in ``convolve``.

    On a CPU it is a sum over kernel positions, which XLA fuses. XLA's grouped convolution took 15 times as long.
    """
    size = kernel.shape[0]
    height, width = x.shape[1:3]
    padding = padding or (same_padding(height, size, stride), same_padding(width, size, stride))
    kernel = kernel.astype(x.dtype)
    if platform() != "cpu":
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding, feature_group_count=x.shape[-1], dimension_numbers=DIMENSIONS,
            precision=precision_of(x.dtype),
        )  # fmt: skip
    x = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    rows, columns = ((side - size) // stride * stride + 1 for side in x.shape[1:3])
    total = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            total = total + x[:, i : i + rows : stride, j : j + columns : stride] * kernel[i, j, 0]
    return total


def convolve_transposed(
    x: Float[Array, "B h w C"], kernel: Float[Array, "k k C F"], *, stride: int
) -> Float[Array, "B H W F"]:
    """Compute a transposed convolution to ``stride`` times the size, as torch's with kernel 4, stride 2, padding 1.

    It convolves x with stride - 1 zeros between its entries. The kernel is therefore flipped in space relative to
    torch's.
    """
    size = kernel.shape[0]
    before, after = (stride + size - 1) // 2, (stride + size - 2) // 2
    x = _split(x)
    if platform() != "cpu":
        pads = ((before, after), (before, after))
        return _split(_native(x, kernel, 1, pads, stride, gradient_dtype().name))
    return _split(_by_phases(x, kernel, stride, before))


def _split(x: Array) -> Array:
    """Constrain images, and their gradient, to be split as the batch is: XLA may split channels instead."""
    return constrain(x, BATCH, HEIGHT, WIDTH, CHANNELS)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4, 5))
def _native(x: Array, kernel: Array, stride: int, padding: Padding, dilation: int, summed_in: str) -> Array:
    """Call XLA's convolution. The kernel's gradient is summed, also over devices, in dtype ``summed_in``."""
    del summed_in
    return _dilated(x, kernel.astype(x.dtype), stride, padding, dilation)


def _dilated(x: Array, kernel: Array, stride: int, padding: Padding, dilation: int) -> Array:
    return jax.lax.conv_general_dilated(
        x, whole(kernel, CHANNELS), (stride, stride), padding, lhs_dilation=(dilation, dilation),
        dimension_numbers=DIMENSIONS, precision=precision_of(x.dtype),
    )  # fmt: skip


def _native_forward(
    x: Array, kernel: Array, stride: int, padding: Padding, dilation: int, summed_in: str
) -> tuple[Array, tuple[Array, Array]]:
    return _native(x, kernel, stride, padding, dilation, summed_in), (x, kernel)


def _native_backward(
    stride: int, padding: Padding, dilation: int, summed_in: str, residuals: tuple[Array, Array], gradient: Array
) -> tuple[Array, Array]:
    x, kernel = residuals
    to_x = jax.vjp(lambda x: _dilated(x, kernel.astype(x.dtype), stride, padding, dilation), x)[1](gradient)[0]
    to_kernel = whole(_kernel_gradient(x, gradient, kernel.shape[:2], stride, padding, dilation, summed_in), CHANNELS)
    return to_x, to_kernel.astype(kernel.dtype)


_native.defvjp(_native_forward, _native_backward)


def _kernel_gradient(
    x: Array, gradient: Array, sides: tuple[int, ...], stride: int, padding: Padding, dilation: int, summed_in: str
) -> Array:
    """Return the kernel gradient [k k C F]: the convolution of x with the output gradient over the batch.

    JAX's own gradient always has the dtype of its operands.
    """
    pads = []
    for size, steps, side, (before, _) in zip(x.shape[1:3], gradient.shape[1:3], sides, padding, strict=True):
        inside, reach = (size - 1) * dilation + 1, (steps - 1) * stride + 1
        pads.append((before, side - 1 - inside - before + reach))
    x, gradient = cast_for_sum(summed_in, x, gradient)
    return jax.lax.conv_general_dilated(
        x, gradient, (1, 1), pads, lhs_dilation=(dilation, dilation), rhs_dilation=(stride, stride),
        dimension_numbers=("CHWN", "IHWO", "HWNC"), precision=precision_of(x.dtype),
        preferred_element_type=jnp.dtype(summed_in),
    )  # fmt: skip


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _plain_valid(x: Array, kernel: Array, summed_in: str) -> Array:
    """Convolve [B H W C] with [k l C F] to [B h w F], without padding."""
    del summed_in
    return _convolution(x, whole(kernel.astype(x.dtype), CHANNELS))


def _plain_valid_forward(x: Array, kernel: Array, summed_in: str) -> tuple[Array, tuple[Array, Array]]:
    return _plain_valid(x, kernel, summed_in), (x, kernel)


def _plain_valid_backward(summed_in: str, residuals: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    x, kernel = residuals
    rows, columns, channels, features = kernel.shape
    height, width = gradient.shape[1:3]
    cast = whole(kernel.astype(x.dtype), CHANNELS)
    to_x = jax.vjp(lambda x: _convolution(x, cast), x)[1](gradient)[0]
    flat = gradient.reshape(-1, features)  # [B*h*w F]
    products = [
        weight_gradient(
            jax.lax.optimization_barrier(x[:, i : i + height, j : j + width].reshape(-1, channels)), flat, summed_in
        )  # [C F]
        for i in range(rows)
        for j in range(columns)
    ]
    return to_x, jnp.stack(products).reshape(kernel.shape).astype(kernel.dtype)


def _convolution(x: Array, kernel: Array) -> Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "VALID", dimension_numbers=DIMENSIONS, precision=precision_of(x.dtype)
    )


_plain_valid.defvjp(_plain_valid_forward, _plain_valid_backward)


def _plain(x: Array, kernel: Array, padding: Padding) -> Array:
    return _plain_valid(jnp.pad(x, ((0, 0), *padding, (0, 0))), kernel, gradient_dtype().name)


def _strided(x: Array, kernel: Array, stride: int, padding: Padding) -> Array:
    """Compute a convolution of stride s with stride 1 on s x s squares; the kernel is padded to a multiple of s."""
    size, channels, features = kernel.shape[0], *kernel.shape[2:]
    outputs = [(n + sum(pad) - size) // stride + 1 for n, pad in zip(x.shape[1:3], padding, strict=True)]
    taps = -(-size // stride)
    kernel = jnp.pad(kernel, ((0, taps * stride - size),) * 2 + ((0, 0), (0, 0)))
    kernel = kernel.reshape(taps, stride, taps, stride, channels, features).transpose(0, 2, 1, 3, 4, 5)
    ends = [
        (pad[0], (output + taps - 1) * stride - n - pad[0])
        for n, pad, output in zip(x.shape[1:3], padding, outputs, strict=True)
    ]
    x = jax.lax.pad(x, jnp.zeros((), x.dtype), ((0, 0, 0), *((*end, 0) for end in ends), (0, 0, 0)))
    kernel = kernel.reshape(taps, taps, -1, features)
    return _plain_valid(space_to_depth(x, stride), kernel, gradient_dtype().name)


def _by_phases(x: Array, kernel: Array, stride: int, before: int) -> Array:
    """Compute a transposed convolution with stride 1, the s x s phases of the output as channels.

    Output row s*t + a multiplies x[t + j] by kernel row s*j + before - a. So each phase a has its own kernel rows.
    """
    batch, height, width, _ = x.shape
    size, channels, features = kernel.shape[0], *kernel.shape[2:]
    taps = -(-size // stride)
    first = [-((before - a) // stride) for a in range(stride)]  # the first j of each phase
    index = [stride * (u + first[a]) + before - a for u in range(taps) for a in range(stride)]
    kernel = jnp.pad(kernel, ((0, 1), (0, 1), (0, 0), (0, 0)))  # row ``size`` is zero, for indices outside the kernel
    rows = jnp.stack([kernel[i if 0 <= i < size else size] for i in index])  # [taps*s k+1 C F]
    phases = jnp.stack([rows[:, i if 0 <= i < size else size] for i in index], axis=1)  # [taps*s taps*s C F]
    phases = phases.reshape(taps, stride, taps, stride, channels, features).transpose(0, 2, 4, 1, 3, 5)
    low, high = -first[0], first[-1] + taps - 1
    y = _plain(x, phases.reshape(taps, taps, channels, -1), ((low, high), (low, high)))
    y = y.reshape(*y.shape[:3], stride, stride, features)
    shifts = [j - first[0] for j in first]
    y = jnp.stack([y[:, shift : shift + height, :, a] for a, shift in enumerate(shifts)], axis=2)  # [B h s w' s F]
    y = jnp.stack([y[:, :, :, shift : shift + width, a] for a, shift in enumerate(shifts)], axis=4)  # [B h s w s F]
    return y.reshape(batch, height * stride, width * stride, features)


def channel_axes(channels: int, features: int) -> tuple[str | None, str | None]:
    """Return the logical axes of a kernel's input channels and output channels.

    The larger of the two dimensions is CHANNELS. The other is None, since a mesh axis cannot divide three colours.
    """
    return (None, CHANNELS) if features >= channels else (CHANNELS, None)


class Conv(nnx.Module):
    """A convolution with a kernel [k k C F]. ``padding`` applies to all sides; None means "SAME"."""

    def __init__(
        self, channels: int, features: int, *, kernel: int, stride: int = 1, padding: int | None = None,
        bias: bool = True, dtype: DTypeLike = jnp.float32, init: Initializer | None = None, rngs: nnx.Rngs,
    ):  # fmt: skip
        init = init or nnx.initializers.variance_scaling(2.0, "fan_in", "normal")
        shape = (kernel, kernel, channels, features)
        self.stride = stride
        self.padding = None if padding is None else ((padding, padding), (padding, padding))
        self.dtype = jnp.dtype(dtype)
        ins, outs = channel_axes(channels, features)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32), axes=(KERNEL, KERNEL, ins, outs))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32), axes=(outs,)) if bias else None

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B h w F"]:
        """Convolve in ``dtype``."""
        y = convolve(x.astype(self.dtype), self.kernel[...], stride=self.stride, padding=self.padding)
        return y if self.bias is None else add_bias(y, self.bias[...])


class ConvTranspose(nnx.Module):
    """A transposed convolution with bias; the output has ``stride`` times the size."""

    def __init__(
        self, channels: int, features: int, *, kernel: int, stride: int, dtype: DTypeLike = jnp.float32,
        init: Initializer | None = None, rngs: nnx.Rngs,
    ):  # fmt: skip
        # Each output sums (kernel / stride)^2 input positions, so its true fan-in is fan_in / stride^2.
        init = init or nnx.initializers.variance_scaling(2.0 * stride**2, "fan_in", "normal")
        shape = (kernel, kernel, channels, features)
        self.stride = stride
        self.dtype = jnp.dtype(dtype)
        ins, outs = channel_axes(channels, features)
        self.kernel = nnx.Param(init(rngs.params(), shape, jnp.float32), axes=(KERNEL, KERNEL, ins, outs))
        self.bias = nnx.Param(jnp.zeros(features, jnp.float32), axes=(outs,))

    def __call__(self, x: Float[Array, "B h w C"]) -> Float[Array, "B H W F"]:
        """Convolve in ``dtype``."""
        y = convolve_transposed(x.astype(self.dtype), self.kernel[...], stride=self.stride)
        return add_bias(y, self.bias[...])


class ReluResBlock(nnx.Module):
    """A residual block ``x + conv(relu(... conv(relu(x))))`` with one convolution per entry of ``kernels``.

    The last convolution starts at zero.
    """

    def __init__(
        self, channels: int, *, kernels: tuple[int, ...], activation: Callable[[Array], Array] = jax.nn.relu,
        dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs,
    ):  # fmt: skip
        last = len(kernels) - 1
        inits = [nnx.initializers.zeros if index == last else None for index in range(len(kernels))]
        self.activation = activation
        self.convs = nnx.List(
            Conv(channels, channels, kernel=kernel, dtype=dtype, init=init, rngs=rngs)
            for kernel, init in zip(kernels, inits, strict=True)
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        """Apply the block to ``x``. The result has the same shape."""
        y = x
        for conv in self.convs:
            y = conv(self.activation(y))
        return x + y
