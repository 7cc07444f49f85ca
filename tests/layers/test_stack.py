import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.layers.linear import Linear
from dalle_jax.layers.stack import Stack
from dalle_jax.parallel.axes import EMBED, LAYERS


def make(rngs):
    return Linear(4, 4, axes=(EMBED, None), rngs=rngs)


def apply(block, x, kind, extra):
    y = block(x) * (2.0 if kind == "b" else 1.0) + (0 if extra is None else extra)
    return jnp.tanh(y), y.sum()


def test_scanned_stack_equals_the_unrolled_one_with_mixed_kinds_extras_and_outputs():
    x, kinds = jax.random.normal(jax.random.key(0), (3, 4)), ("a", "b", "a", "a", "b", "a", "b")
    extras = jnp.arange(7.0)
    unrolled = Stack(make, 7, scan=False, rngs=nnx.Rngs(0))
    scanned = Stack(make, 7, scan=True, rngs=nnx.Rngs(0))
    a, outs_a = unrolled(apply, x, kinds, extras)
    b, outs_b = scanned(apply, x, kinds, extras)
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(jnp.stack(outs_a), jnp.stack(outs_b), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(scanned.block(3).kernel[...], unrolled.block(3).kernel[...])


def test_scanned_parameters_lead_with_the_layers_axis():
    stack = Stack(make, 3, scan=True, rngs=nnx.Rngs(0))
    assert stack.blocks.kernel.axes == (LAYERS, EMBED, None)
    assert stack.blocks.kernel.shape == (3, 4, 4)


def test_each_layer_begins_differently():
    stack = Stack(make, 2, scan=False, rngs=nnx.Rngs(0))
    assert not np.allclose(stack.block(0).kernel[...], stack.block(1).kernel[...])
