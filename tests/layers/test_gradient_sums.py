"""The gradient of a parameter is summed in the requested dtype, regardless of its layer's dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.layers.conv_blocks import DIMENSIONS, convolve, convolve_transposed
from dalle_jax.layers.embeddings import broadcast_param, lookup
from dalle_jax.layers.linear import add_bias, project
from dalle_jax.parallel.axes import VOCAB
from dalle_jax.parallel.reduction import gradients_summed_in

INDEX = jnp.asarray([[0, 3, 3], [3, 1, 9]])


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def plain_convolution(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=DIMENSIONS)


def plain_transposed(x, kernel):
    pads = ((2, 2), (2, 2))
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), pads, lhs_dilation=(2, 2), dimension_numbers=DIMENSIONS)


LAYERS = {
    "project": (
        lambda x, kernel: project(x, kernel, 2),
        lambda x, kernel: jnp.einsum("bthd,hdef->btef", x, kernel),
        ((3, 5, 2, 4), (2, 4, 3, 6)),
    ),
    "convolve": (lambda x, kernel: convolve(x, kernel, stride=2), plain_convolution, ((3, 6, 6, 4), (3, 3, 4, 5))),
    "convolve_transposed": (
        lambda x, kernel: convolve_transposed(x, kernel, stride=2),
        plain_transposed,
        ((3, 4, 4, 3), (4, 4, 3, 5)),
    ),
    "lookup": (
        lambda x, table: x * lookup(table, INDEX, x.dtype, VOCAB),
        lambda x, table: x * table[jnp.minimum(INDEX, 3)],
        ((2, 3, 6), (4, 6)),
    ),
    "add_bias": (add_bias, lambda x, bias: x + bias, ((40, 6), (6,))),
    "broadcast_param": (
        lambda x, table: x + broadcast_param(table, 40, x.dtype),
        lambda x, table: x + table,
        ((40, 3, 6), (3, 6)),
    ),
}


@pytest.fixture(params=["cpu", "tpu"])
def on(request, monkeypatch):
    for module in ("linear", "conv_blocks"):
        monkeypatch.setattr(f"dalle_jax.layers.{module}.platform", lambda: request.param)


def gradients(layer, x, parameter, weights):
    """Return the gradients of sum(layer output * weights) with respect to x and the parameter; every cast rounds."""
    exact = {"xla_allow_excess_precision": False}
    return jax.jit(lambda *both: jax.vjp(layer, *both)[1](weights), compiler_options=exact)(x, parameter)


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_the_plain_formulas(name):
    layer, plain, shapes = LAYERS[name]
    x, parameter = normal(0, *shapes[0]), normal(1, *shapes[1])
    weights = normal(2, *jax.eval_shape(plain, x, parameter).shape)
    np.testing.assert_allclose(layer(x, parameter), plain(x, parameter), atol=1e-5)
    for ours, theirs in zip(
        gradients(layer, x, parameter, weights), gradients(plain, x, parameter, weights), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, atol=2e-5)


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("name", LAYERS)
def test_bfloat16_layers_with_float32_sums_have_the_gradients_of_float32(name):
    layer, plain, shapes = LAYERS[name]
    x, parameter = normal(0, *shapes[0]).astype(jnp.bfloat16), normal(1, *shapes[1])
    weights = normal(2, *jax.eval_shape(layer, x, parameter).shape).astype(jnp.bfloat16)
    rounded = parameter.astype(jnp.bfloat16).astype(jnp.float32)
    expected = gradients(plain, x.astype(jnp.float32), rounded, weights.astype(jnp.float32))[1]
    with gradients_summed_in("float32"):
        found = gradients(layer, x, parameter, weights)[1]
    assert found.dtype == jnp.float32
    tolerance = 2**-8 if name == "lookup" else 1e-5  # its products are rounded before they are summed
    np.testing.assert_allclose(found, expected, atol=tolerance * float(jnp.abs(expected).max()))


@pytest.mark.usefixtures("on")
@pytest.mark.parametrize("name", ["project", "convolve", "convolve_transposed", "lookup"])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_sums_in_bfloat16_have_its_precision(name, dtype):
    layer, plain, shapes = LAYERS[name]
    x, parameter = normal(0, *shapes[0]).astype(dtype), normal(1, *shapes[1])
    weights = normal(2, *jax.eval_shape(layer, x, parameter).shape).astype(dtype)
    with gradients_summed_in("bfloat16"):
        found = gradients(layer, x, parameter, weights)[1]
    np.testing.assert_array_equal(found, found.astype(jnp.bfloat16).astype(jnp.float32))
    exact = gradients(plain, x.astype(jnp.float32), parameter, weights.astype(jnp.float32))[1]
    np.testing.assert_allclose(found, exact, atol=2**-6 * float(jnp.abs(exact).max()))
