import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.layers.linear import Linear, flat_matmul, unstack
from dalle_jax.layers.stack import Stack
from dalle_jax.parallel.axes import EMBED, HEAD_DIM, HEADS


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_a_flattened_product_and_its_gradients_equal_the_plain_ones():
    x, kernel, weight = normal(0, 2, 3, 5), normal(1, 5, 7), normal(2, 2, 3, 7)
    flat = jax.jit(jax.value_and_grad(lambda x, k: (flat_matmul(x, k) * weight).sum(), argnums=(0, 1)))(x, kernel)
    plain = jax.value_and_grad(lambda x, k: ((x @ k) * weight).sum(), argnums=(0, 1))(x, kernel)
    for ours, theirs in zip(jax.tree.leaves(flat), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def values_and_gradients(function, *arguments):
    """Return the values of the function and the gradients of a weighted sum of them."""
    weight = normal(9, *jax.eval_shape(function, *arguments).shape)
    gradients = jax.grad(lambda *given: (function(*given) * weight).sum(), argnums=tuple(range(len(arguments))))
    return jax.tree.leaves((function(*arguments), gradients(*arguments)))


def test_cpu_and_tpu_compute_the_same_projection(monkeypatch):
    layer = Linear(6, (2, 4), axes=(EMBED, HEADS, HEAD_DIM), rngs=nnx.Rngs(0))
    back = Linear((2, 4), 6, axes=(HEADS, HEAD_DIM, EMBED), bias=False, rngs=nnx.Rngs(1))
    x = normal(0, 3, 5, 6)
    cpu = values_and_gradients(lambda x: back(layer(x)), x)
    monkeypatch.setattr("dalle_jax.layers.linear.platform", lambda: "tpu")
    for ours, theirs in zip(values_and_gradients(lambda x: back(layer(x)), x), cpu, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)


def test_kernel_and_bias_carry_one_axis_per_dimension():
    layer = Linear(6, (2, 4), axes=(EMBED, HEADS, HEAD_DIM), rngs=nnx.Rngs(0))
    assert layer.kernel.axes == (EMBED, HEADS, HEAD_DIM)
    assert layer.bias.axes == (HEADS, HEAD_DIM)
    with pytest.raises(ValueError, match=r"axes: expected 2 for a kernel of shape \(6, 4\)"):
        Linear(6, 4, axes=(EMBED,), rngs=nnx.Rngs(0))


def test_bfloat16_computes_in_bfloat16_with_float32_parameters():
    layer = Linear(6, 4, axes=(EMBED, None), dtype="bfloat16", rngs=nnx.Rngs(0))
    assert layer(normal(0, 3, 6)).dtype == jnp.bfloat16
    assert layer.kernel[...].dtype == jnp.float32


@pytest.mark.parametrize("platform", ["cpu", "tpu"])
def test_logits_are_summed_in_float32_and_not_rounded_to_bfloat16(platform, monkeypatch):
    monkeypatch.setattr("dalle_jax.layers.linear.platform", lambda: platform)
    layer = Linear(6, 4, axes=(EMBED, None), dtype="bfloat16", out_dtype="float32", bias=False, rngs=nnx.Rngs(0))
    x = normal(0, 3, 6).astype(jnp.bfloat16)
    wanted = np.asarray(x, np.float64) @ np.asarray(layer.kernel[...].astype(jnp.bfloat16), np.float64)
    assert layer(x).dtype == jnp.float32
    np.testing.assert_allclose(layer(x), wanted, rtol=1e-6, atol=1e-6)
    assert np.abs(np.asarray(layer(x).astype(jnp.bfloat16), np.float64) - wanted).max() > 1e-4
    gradient = jax.grad(lambda x: (layer(x) ** 2).sum())(x)
    assert gradient.dtype == jnp.bfloat16 and np.isfinite(np.asarray(gradient, np.float32)).all()


def wide(rngs):
    return Linear((2, 3), (3, 8, 64), axes=(None, EMBED, None, HEADS, HEAD_DIM), rngs=rngs)


def test_unstack_equals_indexing_in_values_and_gradients():
    x, weight = normal(0, 2, 3, 5), normal(1, 3, 2, 5)
    ours = jax.value_and_grad(lambda x: sum((one * w).sum() for one, w in zip(unstack(x, 1), weight, strict=True)))(x)
    plain = jax.value_and_grad(lambda x: sum((x[:, i] * weight[i]).sum() for i in range(3)))(x)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(plain), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def quantized(layer: Linear) -> Linear:
    copy = nnx.clone(layer)
    copy.quantize()
    return copy


def test_an_int8_kernel_and_its_scales_give_the_kernel_within_half_a_step():
    layer = wide(nnx.Rngs(0))
    layer.kernel[...] = layer.kernel[...].at[:, :, 1, 2, 3].set(0.0)  # an output of zeros has no largest weight
    small = quantized(layer)
    assert small.kernel[...].dtype == jnp.int8 and small.scales[...].dtype == jnp.float32
    assert small.scales.shape == (3, 8, 64) and small.scales.axes == (None, HEADS, HEAD_DIM)
    scales, kernel = np.asarray(small.scales[...]), np.asarray(layer.kernel[...])
    error = np.abs(np.asarray(small.kernel[...], np.float32) * scales - kernel)
    assert (error <= 0.5001 * scales).all() and (error / scales).max() > 0.4
    largest = np.abs(np.asarray(small.kernel[...])).max(axis=(0, 1))
    assert (
        largest[1, 2, 3] == 0 and (np.delete(largest.ravel(), np.ravel_multi_index((1, 2, 3), (3, 8, 64))) == 127).all()
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_product_of_an_int8_kernel_is_that_of_the_rounded_weights(dtype):
    layer = Linear(6, (2, 64 * 8), axes=(EMBED, HEADS, HEAD_DIM), dtype=dtype, rngs=nnx.Rngs(0))
    small, x = quantized(layer), normal(1, 4, 6).astype(dtype)
    rounded = np.asarray(small.kernel[...], np.float32) * np.asarray(small.scales[...])
    wanted = np.einsum("bd,dnh->bnh", np.asarray(x, np.float32), rounded)
    assert small(x).dtype == jnp.dtype(dtype)
    tolerance = {"float32": 1e-6, "bfloat16": 2e-2}[dtype]
    np.testing.assert_allclose(np.asarray(small(x), np.float32), wanted, atol=tolerance)
    panels = nnx.clone(small)
    panels.split_into_panels(least=1024)
    assert panels.panels is not None
    np.testing.assert_allclose(np.asarray(panels(x), np.float32), wanted, atol=tolerance)


def test_the_layers_of_a_scanned_kernel_have_scales_of_their_own():
    stack = Stack(wide, (0, 0), scan=True, rngs=nnx.Rngs(0))
    plain, small = stack.blocks, quantized(stack.blocks)
    assert small.scales.shape == (2, 3, 8, 64)
    for layer in range(2):
        np.testing.assert_array_equal(
            small.scales[...][layer], jnp.abs(plain.kernel[...][layer]).max(axis=(0, 1)) / 127
        )
