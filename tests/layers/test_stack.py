import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.layers.attention_masks import repeat_kinds
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.stack import Stack, dropout
from dalle_jax.parallel.axes import EMBED, LAYERS

MIXED = ("a", "b", "a", "a", "b", "a", "b")


def make(rngs):
    return Linear(4, 4, axes=(EMBED, None), rngs=rngs)


def apply(block, x, kind, extra):
    y = block(x) * (2.0 if kind == "b" else 1.0) + (0 if extra is None else extra)
    return jnp.tanh(y), y.sum(axis=-1)


def by_layer(outputs):
    """Return the outputs [B] of all layers in order."""
    repeated = jnp.stack(outputs.repeated, axis=2)  # [B groups period]
    return jnp.concatenate([repeated.reshape(len(repeated), -1).T, jnp.stack(outputs.rest)])


def test_scanned_stack_equals_the_unrolled_one_with_mixed_kinds_extras_and_outputs():
    x, extras = jax.random.normal(jax.random.key(0), (3, 4)), jnp.arange(7.0)
    unrolled = Stack(make, MIXED, scan=False, rngs=nnx.Rngs(0))
    scanned = Stack(make, MIXED, scan=True, rngs=nnx.Rngs(0))
    a, outs_a = unrolled(apply, x, extras)
    b, outs_b = scanned(apply, x, extras)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jnp.stack(outs_a.rest), by_layer(outs_b), rtol=1e-5, atol=1e-5)
    for layer in range(7):
        np.testing.assert_array_equal(scanned.block(layer).kernel[...], unrolled.block(layer).kernel[...])


def test_unrolling_keeps_the_parameters_and_the_order_of_what_the_layers_made():
    x = jax.random.normal(jax.random.key(0), (3, 4))
    stack, unrolled = Stack(make, MIXED, scan=True, rngs=nnx.Rngs(0)), Stack(make, MIXED, scan=True, rngs=nnx.Rngs(0))
    unrolled.unroll()
    assert (unrolled.period, unrolled.scanned, len(unrolled.blocks)) == (1, 0, 7)
    (a, made), (b, wanted) = stack(apply, x), unrolled(apply, x)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(unrolled.unrolled(made).rest, wanted.rest, rtol=1e-5, atol=1e-5)
    assert unrolled.unrolled(wanted) is wanted
    assert stack.unrolled(made) is made


def test_scanned_parameters_have_a_leading_layers_axis_and_the_rest_have_not():
    stack = Stack(make, ("a", "a", "a", "b"), scan=True, rngs=nnx.Rngs(0))
    assert stack.blocks.kernel.axes == (LAYERS, EMBED, None)
    assert stack.blocks.kernel.shape == (3, 4, 4)
    assert [one.kernel.axes for one in stack.rest] == [(EMBED, None)]


def test_each_layer_has_its_own_initial_values():
    stack = Stack(make, ("a", "a"), scan=False, rngs=nnx.Rngs(0))
    assert not np.allclose(stack.block(0).kernel[...], stack.block(1).kernel[...])


@pytest.mark.parametrize(
    ("kinds", "period", "scanned"),
    [
        (("a",) * 5, 1, 5),
        (("a", "b", "a", "b", "a"), 2, 4),
        (repeat_kinds(("row", "column", "row", "row"), "convolutional", 64), 4, 60),
        (("a", "b", "c"), 1, 0),
        (("a",), 1, 0),
    ],
)
def test_the_period_is_the_one_that_leaves_the_fewest_blocks_to_compile(kinds, period, scanned):
    stack = Stack(make, kinds, scan=True, rngs=nnx.Rngs(0))
    assert (stack.period, stack.scanned, len(stack.rest)) == (period, scanned, len(kinds) - scanned if scanned else 0)


def test_without_a_key_or_a_rate_nothing_changes():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_values_are_zeroed_at_the_rate_and_the_rest_scaled_so_that_the_mean_stays():
    x = jnp.full(20_000, 3.0)
    dropped = dropout(x, 0.25, jax.random.key(1))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    np.testing.assert_allclose((dropped == 0).mean(), 0.25, atol=0.01)
