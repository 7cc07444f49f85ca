"""The autoregressive prior: its codes, and cached sampling that equals teacher forcing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.priors.autoregressive_prior import AutoregressivePrior, AutoregressivePriorConfig, PrefixDecoder
from dalle_jax.models.priors.pca_codes import DotProductBuckets, PcaCodes
from dalle_jax.models.priors.prior import PriorOptions
from tests.models.priors.test_priors import SIZES, sample_of, text_of

COMPONENTS, BUCKETS = 5, 8
CONFIG = AutoregressivePriorConfig(**(SIZES | {"depth": 1}), components=COMPONENTS, buckets=BUCKETS, dot_products=4)


@pytest.fixture(scope="module")
def prior() -> AutoregressivePrior:
    module = CONFIG.build(nnx.Rngs(0))
    module.measure(sample_of(0))
    return module


def test_components_are_orthonormal_and_ordered_by_variance_and_span_their_range():
    found, codes = sample_of(1), PcaCodes(6, 4, 16)
    codes.measure(found)
    basis = np.asarray(codes.basis[...])
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-5)
    values = (found.image - found.image.mean(axis=0)) @ basis
    assert np.all(np.diff(values.var(axis=0)) < 0)
    np.testing.assert_allclose(np.cov(values, rowvar=False), np.diag(values.var(axis=0, ddof=1)), atol=1e-5)
    numbers = np.asarray(codes.encode(jnp.asarray(found.image, jnp.float32)))
    np.testing.assert_array_equal(numbers.min(axis=0), 0)
    np.testing.assert_array_equal(numbers.max(axis=0), 15)


def test_decoded_codes_are_nearer_the_more_components_and_buckets_there_are():
    found, errors = sample_of(2), []
    image = jnp.asarray(found.image, jnp.float32)
    for components, buckets in ((2, 64), (6, 4), (6, 64), (6, 1024)):
        codes = PcaCodes(6, components, buckets)
        codes.measure(found)
        errors.append(float(jnp.abs(codes.decode(codes.encode(image)) - image).mean()))
    assert errors[0] > errors[1] > errors[2] > errors[3]
    assert errors[3] < 1e-3


def test_a_sample_in_another_order_has_the_same_components():
    found, first, second = sample_of(3), PcaCodes(6, 4, 16), PcaCodes(6, 4, 16)
    first.measure(found)
    second.measure(type(found)(*(one[::-1] for one in found)))
    np.testing.assert_allclose(first.basis[...], second.basis[...], atol=1e-6)


def test_buckets_of_dot_products_hold_equal_shares():
    found, buckets = sample_of(4), DotProductBuckets(4)
    buckets.measure(found)
    numbers = np.asarray(buckets(*(jnp.asarray(one, jnp.float32) for one in found)))
    np.testing.assert_allclose(np.bincount(numbers), 125, atol=1)
    dots = (found.image * found.text).sum(axis=1)
    assert dots[numbers == 3].min() > dots[numbers == 0].max()


def test_cached_decoding_equals_teacher_forcing_and_a_code_depends_on_earlier_ones_alone(prior):
    text, token = text_of(1, 3, words=2), jnp.array([0, 2, 3])
    codes = jax.random.randint(jax.random.key(5), (3, COMPONENTS), 0, BUCKETS)
    forward = called(prior, lambda module, codes: module(text, token, codes))
    whole, changed = forward(codes), forward(codes.at[:, 2].set((codes[:, 2] + 1) % BUCKETS))
    np.testing.assert_allclose(whole[:, :3], changed[:, :3], atol=1e-6)
    assert np.abs(whole[:, 3:] - changed[:, 3:]).max() > 1e-4

    def decode(module, codes):
        decoder, prefix = PrefixDecoder(module, module.prefix(text, token)), module.prefix(text, token)
        logits, cache = decoder.prefill(prefix, 1)
        cache, steps = decoder.grow(cache, COMPONENTS - 1), [logits[:, None]]
        for position in range(1, COMPONENTS):
            logits, cache = decoder.decode(codes[:, position - 1 : position], jnp.int32(position), cache)
            steps.append(logits)
        return jnp.concatenate(steps, axis=1)

    np.testing.assert_allclose(called(prior, decode)(codes), whole, atol=2e-5)


def called(prior, function):
    """Return ``function(prior, *arguments)``, compiled."""
    graph, state = nnx.split(prior)
    compiled = jax.jit(lambda state, *arguments: function(nnx.merge(graph, state), *arguments))
    return lambda *arguments: compiled(state, *arguments)


def test_sampling_draws_dot_products_of_the_upper_half_and_guidance_of_1_reads_no_empty_text(prior):
    """Other embeddings of the lower half change no vector; of the upper half they do."""
    text, keys = text_of(1, 2), jax.random.split(jax.random.key(0), (2, 4))
    options = PriorOptions(guidance=1.0)

    def draw(module, start, empty):
        module.dot_product_in.table[...] = start
        return module.draw(text, empty, keys, options)

    drawn, table = called(prior, draw), prior.dot_product_in.table[...]
    first = drawn(table, text_of(7, 1))
    np.testing.assert_array_equal(first, drawn(table, text_of(8, 1)))
    other = jax.random.normal(jax.random.key(1), table.shape)
    np.testing.assert_array_equal(first, drawn(table.at[:2].set(other[:2]), text_of(7, 1)))
    assert np.abs(first - drawn(table.at[2:].set(other[2:]), text_of(7, 1))).max() > 1e-2
