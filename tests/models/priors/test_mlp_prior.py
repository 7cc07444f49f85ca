"""The MLP prior: the vector that it keeps, and how it depends on keys."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.models.clip import unit
from dalle_jax.models.priors.mlp_prior import MlpPrior, MlpPriorConfig
from dalle_jax.models.priors.prior import Prior, PriorOptions, TextCondition
from tests.models.priors.test_priors import sample_of

CONFIG = MlpPriorConfig(embed_width=6, width=16, hidden=8, layers=2)
OPTIONS = PriorOptions(steps=4, draws=2)


@pytest.fixture(scope="module")
def prior() -> MlpPrior:
    network = CONFIG.build(nnx.Rngs(0))
    network.head.kernel[...] = jax.random.normal(jax.random.key(1), network.head.kernel.shape)  # 0 in a new network
    network.measure(sample_of(1))
    return network


def text_of(rows: int) -> TextCondition:
    vector = unit(jax.random.normal(jax.random.key(2), (rows, 6)))
    return TextCondition(jnp.zeros((rows, 4, 5)), vector, jnp.ones((rows, 4), bool))


def test_a_vector_is_the_nearest_to_the_text_of_those_drawn_from_its_key(prior):
    assert isinstance(prior, Prior)
    text, keys = text_of(3), jax.random.split(jax.random.key(3), (3, 2))
    drawn = prior.draw(text, text, keys, OPTIONS)  # [P M E]
    np.testing.assert_allclose(jnp.linalg.norm(drawn, axis=-1), 1.0, rtol=1e-5)
    pairs = jax.vmap(jax.vmap(lambda key: jax.random.split(key, 2)))(keys)  # [P M n]
    each = jnp.stack([euler(prior, text.vector, pairs[:, m, n]) for m in range(2) for n in range(2)], axis=1)
    scores = (each * text.vector[:, None]).sum(-1).reshape(3, 2, 2)  # [P M n]
    np.testing.assert_allclose((drawn * text.vector[:, None]).sum(-1), scores.max(axis=-1), rtol=1e-4)


def euler(prior: MlpPrior, text: jax.Array, keys: jax.Array, steps: int = 4) -> jax.Array:
    """Sample a unit vector for each key by x' = x + (x0 - x) / (steps (1 - t)), written out."""
    x = initial_noise(keys, (6,))
    for step in range(steps):
        x = x + (prior(x, jnp.full(len(x), step / steps), text) - x) / (steps - step)
    return prior.denormalise(x)


def test_a_vector_depends_on_its_own_key_alone(prior):
    text, keys = text_of(3), jax.random.split(jax.random.key(3), (3, 2))
    drawn = prior.draw(text, text, keys, OPTIONS)
    one = TextCondition(*(leaf[1:2] for leaf in text))
    np.testing.assert_allclose(prior.draw(one, one, keys[1:2, 1:], OPTIONS)[0, 0], drawn[1, 1], atol=1e-5)
    assert np.abs(drawn[:, 0] - drawn[:, 1]).max() > 1e-2


def test_the_network_sees_standardised_texts(prior):
    """Larger weights of the text's inputs change nothing for a text at the sample's mean."""
    mean = prior.text_mean[...][None]
    x, time = jnp.ones((1, 6)), jnp.full(1, 0.5)
    before, moved = [prior(x, time, one) for one in (mean, mean + 0.1)], nnx.clone(prior)
    moved.inputs.kernel[...] = moved.inputs.kernel[...].at[6:12].multiply(5.0)
    np.testing.assert_allclose(moved(x, time, mean), before[0], atol=1e-5)
    assert np.abs(moved(x, time, mean + 0.1) - before[1]).max() > 1e-3
