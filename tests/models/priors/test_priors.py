"""Priors: what they see of a text, what they draw, and the statistics that they undo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.clip import unit
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePriorConfig
from dalle_jax.models.priors.diffusion_prior import DiffusionPriorConfig
from dalle_jax.models.priors.one_step_prior import OneStepPriorConfig
from dalle_jax.models.priors.prior import (
    Prior,
    PriorOptions,
    TextCondition,
    VectorSample,
    VectorStatistics,
    nearest,
    statistics_of,
)

SIZES = {"embed_width": 6, "text_width": 5, "text_length": 4, "width": 16, "depth": 2, "heads": 2}


def text_of(seed: int, rows: int, words: int = 3) -> TextCondition:
    keys = jax.random.split(jax.random.key(seed))
    vector = jax.random.normal(keys[1], (rows, 6))
    mask = jnp.broadcast_to(jnp.arange(4) < words, (rows, 4))
    return TextCondition(jax.random.normal(keys[0], (rows, 4, 5)), unit(vector), mask)


KINDS = {
    "diffusion": DiffusionPriorConfig(**SIZES),
    "one_step": OneStepPriorConfig(**SIZES),
    "autoregressive": AutoregressivePriorConfig(**SIZES, components=5, buckets=8, dot_products=4),
}


def sample_of(seed: int, count: int = 500) -> VectorSample:
    """Return unit vectors with a mean, different deviations by dimension, and texts that resemble them."""
    rng = np.random.default_rng(seed)
    image = 0.5 + rng.normal(size=(count, 6)) * np.arange(1, 7)
    text = image + rng.normal(size=(count, 6))
    return VectorSample(*(one / np.linalg.norm(one, axis=1, keepdims=True) for one in (image, text)))


@pytest.fixture(scope="module", params=KINDS)
def prior(request) -> Prior:
    module = KINDS[request.param].build(nnx.Rngs(0))
    module.measure(sample_of(0))
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


def test_vectors_are_standardised_by_the_statistics_of_the_sample():
    prior, found = KINDS["one_step"].build(nnx.Rngs(0)), sample_of(3)
    prior.measure(found)
    normal = np.asarray(prior.normalise(jnp.asarray(found.image, jnp.float32)))
    np.testing.assert_allclose(normal.mean(axis=0), 0.0, atol=1e-5)
    np.testing.assert_allclose(normal.std(axis=0), 1.0, atol=1e-5)


def test_a_dimension_that_does_not_vary_is_standardised_to_zero():
    found = statistics_of(np.ones((4, 2)))
    np.testing.assert_array_equal(found.mean, 1.0)
    assert np.all(np.asarray(found.std) > 0)


def test_normalising_is_undone_up_to_the_length():
    prior = KINDS["diffusion"].build(nnx.Rngs(0))
    prior.set_statistics(VectorStatistics(jnp.arange(6.0) / 10, jnp.arange(1.0, 7.0) / 5))
    image = text_of(2, 3).vector
    np.testing.assert_allclose(prior.denormalise(prior.normalise(image)), image, atol=1e-5)


def test_the_nearest_of_several_vectors_is_kept():
    text = text_of(3, 2).vector
    vectors = jnp.stack([-text, text, 0.5 * text], axis=1)
    np.testing.assert_array_equal(nearest(vectors, text), text)


def test_options_out_of_range_are_refused():
    with pytest.raises(ValueError, match="expected at least 2, 1 and 0, got 1, 2 and 4"):
        PriorOptions(steps=1)
