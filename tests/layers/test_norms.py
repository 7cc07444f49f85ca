import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np

from dalle_jax.layers.norms import LayerNorm


def test_layer_norm_equals_its_definition():
    x = 3 + 2 * jax.random.normal(jax.random.key(0), (4, 8))
    norm = LayerNorm(8)
    norm.scale[...] = jnp.arange(8.0)
    norm.bias[...] = jnp.ones(8)
    a = np.asarray(x, np.float64)
    expected = (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + 1e-5) * np.arange(8) + 1
    np.testing.assert_allclose(norm(x), expected, rtol=1e-5, atol=1e-5)


def test_layer_norm_gradient_equals_finite_differences():
    x = jax.random.normal(jax.random.key(1), (3, 6))
    weight = jax.random.normal(jax.random.key(2), (3, 6))
    norm = LayerNorm(6)
    norm.scale[...] = jnp.linspace(0.5, 2.0, 6)

    def loss(x):
        return (norm(jnp.asarray(x)) * weight).sum()

    jax.test_util.check_grads(loss, (x,), order=1, modes=["rev"], atol=1e-2, rtol=1e-2)


def test_norm_without_scale_has_none():
    norm = LayerNorm(8, scale=False)
    assert norm.scale is None
    assert norm.bias is not None
