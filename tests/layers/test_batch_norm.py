import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.layers.batch_norm import EPSILON, MOMENTUM, BatchNorm

X = jax.random.normal(jax.random.key(0), (4, 3, 3, 5)) * 3 + 2


def test_training_normalises_by_the_batch_and_moves_the_running_statistics():
    norm = BatchNorm(5, axes=(None,))
    y = np.asarray(norm(X, train=True)).reshape(-1, 5)
    flat = np.asarray(X, np.float64).reshape(-1, 5)
    np.testing.assert_allclose(y, (flat - flat.mean(0)) / np.sqrt(flat.var(0) + EPSILON), atol=1e-4)
    np.testing.assert_allclose(norm.mean[...], MOMENTUM * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(norm.variance[...], 1 - MOMENTUM + MOMENTUM * flat.var(0, ddof=1), rtol=1e-5)


def test_inference_uses_the_running_statistics_and_leaves_them_unchanged():
    norm = BatchNorm(5, axes=(None,))
    norm.mean[...], norm.variance[...] = jnp.arange(5.0), jnp.arange(1.0, 6.0)
    norm.scale[...], norm.bias[...] = jnp.full(5, 2.0), jnp.full(5, -1.0)
    got = norm(X, train=False)
    wanted = (np.asarray(X) - np.arange(5)) / np.sqrt(np.arange(1, 6) + EPSILON) * 2 - 1
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    np.testing.assert_array_equal(norm.mean[...], np.arange(5))


def test_gradients_flow_through_the_statistics_of_the_batch_but_not_into_the_running_ones():
    graph, params, others = nnx.split(BatchNorm(5, axes=(None,)), nnx.Param, ...)

    def loss(x, others):
        norm = nnx.merge(graph, params, others, copy=True)
        return (norm(x, train=True) ** 3).sum() + norm.mean[...].sum()

    to_x, to_others = jax.grad(loss, argnums=(0, 1))(X, others)
    np.testing.assert_allclose(np.asarray(to_x).sum(axis=(0, 1, 2)), 0, atol=1e-3)  # a shift changes nothing
    assert float(jnp.abs(to_x).max()) > 1e-3
    np.testing.assert_allclose(to_others["mean"][...], 1 - MOMENTUM)
