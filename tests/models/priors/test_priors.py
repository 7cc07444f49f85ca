"""Priors: what they see of a text, what they draw, and the statistics that they undo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.clip import unit
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.models.priors.prior import ImageStatistics, Prior, PriorOptions, TextCondition, nearest

SIZES = {"embed_width": 6, "text_width": 5, "text_length": 4, "width": 16, "depth": 2, "heads": 2}


def text_of(seed: int, rows: int, words: int = 3) -> TextCondition:
    keys = jax.random.split(jax.random.key(seed))
    vector = jax.random.normal(keys[1], (rows, 6))
    mask = jnp.broadcast_to(jnp.arange(4) < words, (rows, 4))
    return TextCondition(jax.random.normal(keys[0], (rows, 4, 5)), unit(vector), mask)


@pytest.fixture(scope="module", params=[DiffusionPriorConfig, OneStepPriorConfig])
def prior(request) -> Prior:
    module = request.param(**SIZES).build(nnx.Rngs(0))
    module.set_statistics(ImageStatistics(jnp.arange(6.0) / 10, jnp.arange(1.0, 7.0) / 5))
    return module


def drawn(prior, text, seeds, **options):
    keys = jax.vmap(jax.vmap(jax.random.key))(jnp.asarray(seeds))
    options = PriorOptions(**({"steps": 3, "draws": 2, "guidance": 2.0} | options))
    graph, state = nnx.split(prior)
    draw = jax.jit(lambda state, text, keys: nnx.merge(graph, state).draw(text, text_of(9, 1, 1), keys, options))
    return np.asarray(draw(state, text, keys))


def test_vectors_are_unit_and_depend_on_the_text_but_not_on_its_padding(prior):
    assert isinstance(prior, Prior)
    text = text_of(1, 2)
    found = drawn(prior, text, [[0, 1], [2, 3]])
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1.0, atol=1e-5)
    padded = text._replace(states=text.states.at[:, 3].add(5.0))
    np.testing.assert_allclose(drawn(prior, padded, [[0, 1], [2, 3]]), found, atol=1e-5)
    changed = text._replace(states=text.states.at[:, 0].add(1.0))
    assert np.abs(drawn(prior, changed, [[0, 1], [2, 3]]) - found).max() > 1e-3


def test_a_vector_depends_on_its_own_key_and_not_on_the_batch(prior):
    text = text_of(1, 2)
    found = drawn(prior, text, [[0, 1], [2, 3]])
    alone = drawn(prior, TextCondition(*(leaf[1:] for leaf in text)), [[2, 3]])
    np.testing.assert_allclose(alone[0], found[1], atol=1e-5)


def test_normalising_is_undone_up_to_the_length(prior):
    image = text_of(2, 3).vector
    np.testing.assert_allclose(prior.denormalise(prior.normalise(image)), image, atol=1e-5)


def test_the_nearest_of_several_vectors_is_kept():
    text = text_of(3, 2).vector
    vectors = jnp.stack([-text, text, 0.5 * text], axis=1)
    np.testing.assert_array_equal(nearest(vectors, text), text)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="expected at least 2, 1 and 0, got 1, 2 and 4"):
        PriorOptions(steps=1)
