import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.losses.variational import gumbel_softmax, kl_from_uniform, marginal_kl_from_uniform


def test_the_kl_divergence_is_zero_for_a_uniform_and_ln_k_for_a_one_hot_distribution():
    np.testing.assert_allclose(kl_from_uniform(jnp.full((2, 8), 3.0)), 0.0, atol=1e-6)
    np.testing.assert_allclose(kl_from_uniform(100.0 * jax.nn.one_hot(jnp.array([3]), 8)), np.log(8), rtol=1e-6)
    logits = jax.random.normal(jax.random.key(0), (4, 5))
    share = np.asarray(jax.nn.softmax(logits))
    np.testing.assert_allclose(kl_from_uniform(logits), (share * np.log(share * 5)).sum(-1), rtol=1e-4)


def test_samples_at_low_temperature_are_one_hot_with_the_frequencies_of_the_distribution():
    logits = jnp.log(jnp.array([0.5, 0.3, 0.2]))
    samples = gumbel_softmax(jnp.broadcast_to(logits, (20_000, 3)), jnp.float32(1e-3), jax.random.key(1))
    np.testing.assert_allclose(samples.max(-1).mean(), 1.0, atol=1e-2)
    np.testing.assert_allclose(samples.mean(0), [0.5, 0.3, 0.2], atol=1e-2)
    warm = gumbel_softmax(jnp.broadcast_to(logits, (100, 3)), jnp.float32(1.0), jax.random.key(1))
    np.testing.assert_allclose(warm.sum(-1), 1.0, rtol=1e-5)
    assert float(warm.max(-1).mean()) < 0.95


def test_the_marginal_kl_divergence_falls_with_the_number_of_used_codes():
    for used in (1, 2, 8):
        codes = 100.0 * jax.nn.one_hot(jnp.arange(32).reshape(2, 16) % used, 8)
        np.testing.assert_allclose(marginal_kl_from_uniform(codes), np.log(8 / used), rtol=1e-5, atol=1e-5)
    logits = jax.random.normal(jax.random.key(0), (3, 4, 5))
    share = np.asarray(jax.nn.softmax(logits)).mean((0, 1))
    np.testing.assert_allclose(marginal_kl_from_uniform(logits), (share * np.log(share * 5)).sum(), rtol=1e-4)
