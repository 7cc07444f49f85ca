import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.losses.condition_contrastive import condition_contrastive

MATCHED, MISMATCHED = jnp.array([3.0, -1.0, 0.5]), jnp.array([-2.0, 4.0, 1.5])
NEGATIVE = jnp.array([True, True, False])


def log_sigmoid(x: float) -> float:
    return -float(np.log1p(np.exp(-x)))


def test_the_loss_of_three_images_by_hand():
    beta, weight = 0.2, 5.0
    first = log_sigmoid(beta * 3) + weight * log_sigmoid(beta * 2)
    second = log_sigmoid(beta * -1) + weight * log_sigmoid(beta * -4)
    third = log_sigmoid(beta * 0.5) + log_sigmoid(beta * 1.5)  # not a negative: a match of weight 1
    found = condition_contrastive(MATCHED, MISMATCHED, NEGATIVE, beta=beta, negative_weight=weight)
    assert float(found) == pytest.approx(-(first + second + third) / 3 / weight, rel=1e-6)


def test_a_weight_below_1_is_not_divided_by():
    found = condition_contrastive(MATCHED[:1], MISMATCHED[:1], NEGATIVE[:1], beta=1.0, negative_weight=0.25)
    assert float(found) == pytest.approx(-log_sigmoid(3.0) - 0.25 * log_sigmoid(2.0), rel=1e-6)


def test_the_model_that_training_starts_from_has_loss_of_even_odds():
    zero = jnp.zeros(3)
    found = condition_contrastive(zero, zero, NEGATIVE, beta=0.02, negative_weight=4.0)
    assert float(found) == pytest.approx(np.log(2) * (1 + 4 + 1 + 4 + 1 + 1) / 3 / 4, rel=1e-6)


def test_the_gradient_raises_matches_and_lowers_negatives_alone():
    def loss(matched, mismatched):
        return condition_contrastive(matched, mismatched, NEGATIVE, beta=0.02, negative_weight=100.0)

    matched, mismatched = jax.grad(loss, argnums=(0, 1))(jnp.zeros(3), jnp.zeros(3))
    # d/dr -log sigmoid(beta r) at 0 is -beta / 2.
    np.testing.assert_allclose(matched, -0.01 / 3 / 100, rtol=1e-5)
    np.testing.assert_allclose(mismatched, np.array([0.01, 0.01, -0.01 / 100]) / 3, rtol=1e-5)


def test_the_optimum_of_fixed_data_is_the_ratio_of_joint_and_product_distributions():
    """For N(match) images with c and as many with c', sigmoid(beta r) is N(match) / (N(match) + lambda N(mismatch))."""
    beta, weight = 0.5, 3.0
    # One image and one caption, matched in 2 of 8 rows and mismatched in 6: r is one number.
    rows = 8

    def loss(r):
        matched = jnp.where(jnp.arange(rows) < 2, r, 0.0)
        mismatched = jnp.where(jnp.arange(rows) < 6, r, 0.0)
        return condition_contrastive(matched, mismatched, jnp.ones(rows, bool), beta=beta, negative_weight=weight)

    best = np.log(2 / (weight * 6)) / beta
    assert abs(float(jax.grad(loss)(jnp.float32(best)))) < 1e-6
    assert float(loss(jnp.float32(best))) < min(float(loss(jnp.float32(best + d))) for d in (-0.5, 0.5))
