import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.losses.cross_entropy import cross_entropy, dalle_loss, weighted_mean


def test_cross_entropy_by_hand():
    logits = jnp.log(jnp.array([[0.2, 0.3, 0.5], [0.7, 0.2, 0.1]])) + 5.0
    np.testing.assert_allclose(cross_entropy(logits, jnp.array([2, 1])), -np.log([0.5, 0.2]), rtol=1e-5)


def test_gradient_is_probability_minus_one_hot():
    logits = jax.random.normal(jax.random.key(0), (4, 7))
    targets = jnp.array([0, 3, 6, 3])
    gradient = jax.grad(lambda x: cross_entropy(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, jax.nn.softmax(logits) - jax.nn.one_hot(targets, 7), atol=1e-6)


def test_text_and_image_are_each_normalised_by_their_own_count():
    text, image = jnp.full((2, 4), 8.0), jnp.full((2, 16), 16.0)
    assert dalle_loss(text, image) == pytest.approx(8 / 8 + 16 * 7 / 8)
    assert dalle_loss(None, image) == pytest.approx(16.0)
    weights = jnp.zeros((2, 4)).at[0, 0].set(2.0)
    assert dalle_loss(text.at[0, 0].set(80.0), image, text_token_weights=weights) == pytest.approx(10 + 14)


def test_a_mean_with_zero_total_weight_is_zero_and_not_nan():
    assert weighted_mean(jnp.ones(3), jnp.zeros(3)) == 0.0
