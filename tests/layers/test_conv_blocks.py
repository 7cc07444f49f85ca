import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.layers.conv_blocks import (
    DIMENSIONS,
    Conv,
    ConvTranspose,
    ReluResBlock,
    convolve,
    convolve_transposed,
    depth_to_space,
    depthwise,
    max_pool,
    space_to_depth,
    upsample,
)


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def assert_same_with_gradients(ours, reference, x, kernel):
    """Assert that values and both gradients agree to 1e-5 of the largest entry."""
    shape = jax.eval_shape(reference, x, kernel).shape
    weights = normal(9, *shape)

    def both(run):
        def value_and_gradients(x, kernel):
            y, pull = jax.vjp(run, x, kernel)
            return y, *pull(weights)

        return jax.jit(value_and_gradients)(x, kernel)

    results = both(ours), both(reference)
    assert results[0][0].shape == shape
    for got, expected in zip(*results, strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(("size", "stride", "padding"), [(5, 2, None), (3, 1, ((0, 2), (1, 0)))])
def test_a_depthwise_convolution_equals_lax(size, stride, padding):
    x, kernel = normal(0, 2, 8, 7, 3), normal(1, size, size, 1, 3)
    expected = jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), padding or "SAME", dimension_numbers=DIMENSIONS, feature_group_count=3
    )
    ours = jax.jit(lambda x, kernel: depthwise(x, kernel, stride=stride, padding=padding))
    np.testing.assert_allclose(ours(x, kernel), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("size", "stride", "padding"),
    [*itertools.product((1, 3, 4), (1, 2), (None,)), (4, 2, ((1, 1), (1, 1))), (3, 2, ((0, 2), (1, 0))), (4, 4, None)],
)
def test_a_convolution_equals_lax_in_value_and_gradients(size, stride, padding):
    x, kernel = normal(0, 2, 8, 7, 3), normal(1, size, size, 3, 5)

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (stride, stride), padding or "SAME", dimension_numbers=DIMENSIONS
        )

    def ours(x, kernel):
        return convolve(x, kernel, stride=stride, padding=padding)

    assert_same_with_gradients(ours, reference, x, kernel)


@pytest.mark.parametrize(("size", "stride"), [(3, 1), (2, 2), (3, 2), (4, 2), (5, 2), (1, 2)])
def test_a_transposed_convolution_equals_lax_in_value_and_gradients(size, stride):
    x, kernel = normal(0, 2, 4, 3, 3), normal(1, size, size, 3, 5)
    pads = ((stride + size - 1) // 2, (stride + size - 2) // 2)

    def reference(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 1), (pads, pads), lhs_dilation=(stride, stride), dimension_numbers=DIMENSIONS
        )

    def ours(x, kernel):
        return convolve_transposed(x, kernel, stride=stride)

    assert jax.eval_shape(ours, x, kernel).shape == (2, 4 * stride, 3 * stride, 5)
    assert_same_with_gradients(ours, reference, x, kernel)


def test_cpu_and_tpu_compute_the_same_convolutions(monkeypatch):
    x, down, up = normal(0, 1, 6, 6, 3), normal(1, 4, 4, 3, 4), normal(2, 4, 4, 3, 4)

    def both():
        return convolve(x, down, stride=2, padding=((1, 1), (1, 1))), convolve_transposed(x, up, stride=2)

    here = both()
    monkeypatch.setattr("dalle_jax.layers.conv_blocks.platform", lambda: "tpu")
    for got, expected in zip(here, both(), strict=True):
        np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_transposed_convolution_of_kernel_4_and_stride_2_has_torchs_values():
    # torch: y[2 i + a - 1] += x[i] w[a] (padding 1), with its kernel flipped; one input at (0, 0) shows the kernel.
    kernel = jnp.arange(16.0).reshape(4, 4, 1, 1)
    y = convolve_transposed(jnp.zeros((1, 2, 2, 1)).at[0, 0, 0, 0].set(1), kernel, stride=2)
    flipped = kernel[::-1, ::-1, 0, 0]
    np.testing.assert_array_equal(y[0, :3, :3, 0], flipped[1:, 1:])
    assert float(jnp.abs(y[0, 3:]).max()) == 0


def test_space_to_depth_orders_rows_columns_channels_and_depth_to_space_inverts_it():
    x = jnp.arange(2 * 4 * 6 * 3).reshape(2, 4, 6, 3).astype(jnp.float32)
    y = space_to_depth(x, 2)
    np.testing.assert_array_equal(y[1, 1, 2], x[1, 2:4, 4:6].reshape(-1))
    np.testing.assert_array_equal(depth_to_space(y, 2), x)


def test_modules_keep_the_variance_of_unit_normal_inputs_through_relu():
    x = jax.nn.relu(normal(0, 1, 16, 16, 64))
    mean_square = float(jnp.square(x).mean())
    for module in (
        Conv(64, 64, kernel=3, rngs=nnx.Rngs(0)),
        ConvTranspose(64, 64, kernel=4, stride=2, rngs=nnx.Rngs(0)),
    ):
        middle = module(x)[:, 3:-3, 3:-3]
        assert 0.7 < float(jnp.square(middle).mean()) / (2 * mean_square) < 1.4


def test_a_residual_block_starts_as_the_identity():
    block, x = ReluResBlock(8, kernels=(3, 3, 1), rngs=nnx.Rngs(0)), normal(0, 2, 4, 4, 8)
    np.testing.assert_array_equal(block(x), x)


def test_parameters_name_every_dimension():
    for _, leaf in nnx.to_flat_state(nnx.state(ReluResBlock(8, kernels=(3, 1), rngs=nnx.Rngs(0)))):
        assert len(leaf.get_metadata()["axes"]) == leaf.get_value().ndim


def test_max_pool_is_the_maximum_of_each_square_and_receives_its_gradient():
    x = jax.random.permutation(jax.random.key(0), jnp.arange(2 * 5 * 6 * 3.0)).reshape(2, 5, 6, 3)
    squares = x[:, :4].reshape(2, 2, 2, 3, 2, 3)
    np.testing.assert_array_equal(max_pool(x), squares.max(axis=(2, 4)))
    gradient = jax.grad(lambda x: (2 * max_pool(x)).sum())(x)
    largest = squares == squares.max(axis=(2, 4), keepdims=True)
    np.testing.assert_array_equal(gradient[:, :4].reshape(squares.shape), 2.0 * largest)
    np.testing.assert_array_equal(gradient[:, 4], 0.0)
    assert float(jax.grad(lambda x: max_pool(x).sum())(jnp.zeros((1, 2, 2, 1))).sum()) == 1.0


def test_upsample_repeats_each_value_in_a_square():
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 5))
    np.testing.assert_array_equal(upsample(x), np.repeat(np.repeat(x, 2, axis=1), 2, axis=2))
