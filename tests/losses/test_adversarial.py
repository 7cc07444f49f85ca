import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.losses.adversarial import (
    adaptive_weight,
    hinge_loss,
    pyramid_distance,
)


def test_the_hinge_loss_ignores_logits_beyond_the_margin():
    np.testing.assert_allclose(hinge_loss(jnp.array([2.0, 0.5]), jnp.array([-3.0, 0.0])), 0.5 * (0.25 + 0.5))


def test_the_adaptive_weight_is_the_bounded_ratio_of_gradient_norms():
    one, other = jnp.array([[3.0, 4.0]]), jnp.array([[0.0, 2.0]])
    np.testing.assert_allclose(adaptive_weight(one, other), 5.0 / (2.0 + 1e-4), rtol=1e-6)
    assert float(adaptive_weight(one, jnp.zeros((1, 2)))) == 1e4


def test_the_pyramid_distance_ignores_brightness_and_counts_edges():
    x = jax.random.uniform(jax.random.key(0), (2, 8, 8, 3))
    np.testing.assert_allclose(pyramid_distance(x, x + 0.3, levels=3), 0.0, atol=1e-5)
    edge = jnp.zeros((1, 8, 8, 3)).at[:, :, 4:].set(1.0)
    # At 8 px one of 7 pairs across differs by 1, at 4 px one of 3.
    np.testing.assert_allclose(pyramid_distance(edge, jnp.zeros_like(edge), levels=2), (1 / 7 + 1 / 3) / 2, rtol=1e-5)
