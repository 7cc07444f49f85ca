import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from dalle_jax.sampling.filters import EXCLUDED_LOGIT, first_largest, restrict, top_k, top_p

LOGITS = 3 * jax.random.normal(jax.random.key(0), (3, 2, 50))


def kept(filtered):
    return np.asarray(filtered) > EXCLUDED_LOGIT


def test_top_k_keeps_the_k_largest_of_each_prompt():
    k = np.array([1, 7, 0])
    rank = np.argsort(np.argsort(-np.asarray(LOGITS), axis=-1), axis=-1)
    expected = rank < np.where(k == 0, 50, k)[:, None, None]
    np.testing.assert_array_equal(kept(top_k(LOGITS, jnp.asarray(k, jnp.int32))), expected)


def test_top_p_keeps_codes_if_the_more_likely_ones_have_less_than_p():
    p = np.array([0.0, 0.6, 1.0], np.float32)
    probabilities = np.asarray(jax.nn.softmax(LOGITS, axis=-1), np.float64)
    order = np.argsort(-probabilities, axis=-1)
    ranked = np.take_along_axis(probabilities, order, axis=-1)
    keep_ranked = np.cumsum(ranked, axis=-1) - ranked < np.maximum(p, 1e-9)[:, None, None]
    expected = np.take_along_axis(keep_ranked, np.argsort(order, axis=-1), axis=-1)
    np.testing.assert_array_equal(kept(top_p(LOGITS, jnp.asarray(p))), expected)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32, allow_subnormal=False), min_size=8, max_size=8), st.integers(1, 8))
def test_top_k_threshold_is_exact_for_any_floats(values, k):
    logits = jnp.asarray(values, jnp.float32)[None, None]  # no subnormals: XLA flushes them to 0, numpy does not
    smallest = np.sort(np.asarray(logits)[0, 0])[-k]
    np.testing.assert_array_equal(kept(top_k(logits, jnp.array([k])))[0, 0], np.asarray(logits)[0, 0] >= smallest)


def test_disabled_filters_leave_the_logits_unchanged():
    ones, off = jnp.ones(3), jnp.zeros(3, jnp.int32)
    np.testing.assert_array_equal(restrict(LOGITS, ones, off, ones), LOGITS)


def test_the_filters_of_one_prompt_leave_another_unchanged():
    out = restrict(LOGITS, jnp.array([1.0, 2.0, 1.0]), jnp.array([3, 0, 0]), jnp.array([1.0, 1.0, 0.5]))
    assert kept(out)[0].sum() == 6
    np.testing.assert_array_equal(out[1], LOGITS[1] / 2)


def test_the_first_of_equal_largest_values_is_drawn():
    values = np.round(2 * np.asarray(LOGITS))  # with many equal values
    values[0, 0], values[1, 0, ::2] = 0.0, -0.0
    values[2, 1, 7:] = EXCLUDED_LOGIT
    np.testing.assert_array_equal(jax.jit(first_largest)(values), values.argmax(axis=-1))
