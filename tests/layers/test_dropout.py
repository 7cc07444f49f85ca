import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.layers.dropout import dropout


def test_without_a_key_or_a_rate_nothing_changes():
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(dropout(x, 0.5, None), x)
    np.testing.assert_array_equal(dropout(x, 0.0, jax.random.key(0)), x)


def test_values_are_zeroed_at_the_rate_and_the_rest_scaled_so_that_the_mean_stays():
    x = jnp.full(20_000, 3.0)
    dropped = dropout(x, 0.25, jax.random.key(1))
    assert set(np.unique(dropped)) == {0.0, 4.0}
    np.testing.assert_allclose((dropped == 0).mean(), 0.25, atol=0.01)
