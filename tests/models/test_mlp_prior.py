"""The MLP prior, and rectified flow on vectors against a Gaussian whose score is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.mlp_prior import MlpPrior, MlpPriorConfig
from dalle_jax.sampling.vector_diffusion import noised_vectors, sample_vectors

CONFIG = MlpPriorConfig(embed_width=6, width=16, hidden=8, layers=2, steps=4, samples=2)


def test_the_exact_prediction_of_a_gaussian_samples_that_gaussian():
    """For x0 ~ N(m, s^2): E[x0 | x] = m + t s^2 / (t^2 s^2 + (1 - t)^2) (x - t m)."""
    mean, spread = jnp.array([1.0, -2.0]), 0.5

    def predict(x, time):
        t = time[:, None]
        return mean + t * spread**2 / (t**2 * spread**2 + (1 - t) ** 2) * (x - t * mean)

    drawn = sample_vectors(predict, jax.random.split(jax.random.key(0), 4000), 2, 100)
    np.testing.assert_allclose(drawn.mean(axis=0), mean, atol=0.03)
    np.testing.assert_allclose(drawn.std(axis=0), spread, atol=0.03)


def test_noised_vectors_mix_clean_ones_and_noise_by_the_time():
    x = noised_vectors(jnp.full((3, 2), 4.0), jnp.ones((3, 2)), jnp.array([0.0, 0.25, 1.0]))
    np.testing.assert_allclose(x, [[1, 1], [1.75, 1.75], [4, 4]])


@pytest.fixture(scope="module")
def prior():
    network = MlpPrior(CONFIG, rngs=nnx.Rngs(0))
    network.head.kernel[...] = jax.random.normal(jax.random.key(1), network.head.kernel.shape)  # 0 in a new network
    return network


def test_a_sample_is_the_one_of_its_key_that_is_nearest_to_the_text(prior):
    text = jax.random.normal(jax.random.key(2), (3, 6))
    text = text / jnp.linalg.norm(text, axis=-1, keepdims=True)
    keys = jax.random.split(jax.random.key(3), 3)
    drawn = prior.sample(jnp.zeros((3, 4), jnp.int32), text, keys)
    np.testing.assert_allclose(jnp.linalg.norm(drawn, axis=-1), 1.0, rtol=1e-5)
    pairs = jax.vmap(lambda key: jax.random.split(key, 2))(keys)  # [B 2]
    both = [sample_vectors(lambda x, time: prior(x, time, text), pairs[:, i], 6, 4) for i in range(2)]
    scores = jnp.stack([(one / jnp.linalg.norm(one, axis=-1, keepdims=True) * text).sum(-1) for one in both])
    np.testing.assert_allclose((drawn * text).sum(-1), scores.max(axis=0), rtol=1e-4)
    alone = prior.sample(jnp.zeros((1, 4), jnp.int32), text[1:2], keys[1:2])
    np.testing.assert_allclose(alone[0], drawn[1], atol=1e-5)


def test_wrong_numbers_of_steps_are_refused():
    with pytest.raises(ValueError, match="steps, samples: expected at least 1, got 0, 2"):
        MlpPriorConfig(embed_width=6, width=16, hidden=8, layers=2, steps=0)
