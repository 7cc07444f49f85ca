import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.losses.policy_gradient import (
    clipped_policy_loss,
    group_advantages,
    policy_terms,
    policy_terms_in_parts,
    widest_groups,
)

REWARDS = np.array([[1.0, 3.0, 2.0], [5.0, 5.0, 5.0], [0.0, 0.0, 9.0]])
CODES = jnp.array([[0, 2], [1, 1]])
LOGITS = jax.random.normal(jax.random.key(0), (2, 2, 3))
OTHERS = jax.random.normal(jax.random.key(1), (2, 2, 3))


def test_advantages_have_mean_0_and_deviation_1_in_each_group_and_equal_rewards_have_none():
    found = group_advantages(REWARDS)
    np.testing.assert_allclose(found[0], [-(1.5**0.5), 1.5**0.5, 0.0])
    np.testing.assert_array_equal(found[1], 0.0)
    np.testing.assert_allclose(found[2].std(), 1.0)


def test_the_widest_groups_keep_their_order_and_ties_take_the_first():
    assert widest_groups(REWARDS, 2).tolist() == [0, 2]
    assert widest_groups(np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 3.0]]), 2).tolist() == [0, 1]


def test_the_terms_are_those_of_the_two_distributions():
    found = policy_terms(LOGITS, OTHERS, CODES)
    p, q = (np.exp(one) / np.exp(one).sum(-1, keepdims=True) for one in (np.asarray(LOGITS), np.asarray(OTHERS)))
    np.testing.assert_allclose(found.kl, (p * np.log(p / q)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(found.entropy, -(p * np.log(p)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(found.reference_entropy, -(q * np.log(q)).sum(-1), rtol=1e-5)
    np.testing.assert_allclose(found.log_prob[0, 1], np.log(p[0, 1, 2]), rtol=1e-5)
    assert not np.any(found.kl_infinite)


def test_a_code_that_the_reference_forbids_is_counted_and_its_gradient_is_finite():
    forbidden = OTHERS.at[0, 0, 1].set(-jnp.inf)
    found = policy_terms(LOGITS, forbidden, CODES)
    np.testing.assert_array_equal(found.kl_infinite, [[1.0, 0.0], [0.0, 0.0]])
    slopes = jax.grad(lambda logits: policy_terms(logits, forbidden, CODES).kl.sum())(LOGITS)
    assert np.isfinite(found.kl).all() and np.isfinite(slopes).all()


def test_the_terms_in_parts_and_their_gradients_are_those_in_one():
    def total(logits, parts):
        found = policy_terms_in_parts(lambda x: 2 * x, logits, lambda x: x, OTHERS, CODES, parts)
        return jnp.sum(found.kl + found.log_prob + found.entropy)

    one, two = (jax.value_and_grad(total)(LOGITS, parts) for parts in (1, 2))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, two)


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "stopped"),
    [(1.5, 1.0, -1.2, 1.0), (0.5, 1.0, -0.5, 0.0), (1.5, -1.0, 1.5, 0.0), (0.5, -1.0, 0.8, 1.0), (1.0, 2.0, -2.0, 0.0)],
)
def test_the_ratio_is_clipped_where_it_left_its_bounds_in_the_direction_of_the_advantage(
    ratio, advantage, loss, stopped
):
    new = jnp.log(jnp.array([[0.1 * ratio]]))
    found = clipped_policy_loss(new, jnp.log(jnp.array([[0.1]])), jnp.array([advantage]), 0.2)
    np.testing.assert_allclose((found[0].item(), found[1].item()), (loss, stopped), rtol=1e-5)


def test_on_the_policys_own_samples_the_gradient_is_advantage_times_that_of_the_log_probability():
    def loss(log_prob):
        return clipped_policy_loss(log_prob, jax.lax.stop_gradient(log_prob), jnp.array([3.0]), 0.2)[0].sum()

    np.testing.assert_allclose(jax.grad(loss)(jnp.array([[-1.0, -2.0]])), [[-3.0, -3.0]])
