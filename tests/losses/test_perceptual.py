import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.losses.perceptual import pyramid_distance


def test_a_shift_of_brightness_is_no_distance_and_an_edge_is():
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    np.testing.assert_allclose(pyramid_distance(x, x + 0.3, levels=3), 0.0, atol=1e-5)
    edge = jnp.zeros((1, 8, 8, 3)).at[:, :, 4:].set(1.0)
    # At 8 px one of 7 pairs across differs by 1, at 4 px one of 3.
    np.testing.assert_allclose(pyramid_distance(edge, jnp.zeros_like(edge), levels=2), (1 / 7 + 1 / 3) / 2, rtol=1e-5)
