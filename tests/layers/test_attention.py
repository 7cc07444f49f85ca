import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.layers import head_groups, kv_cache
from dalle_jax.layers.attend import dense_attention
from dalle_jax.layers.attention import step_attention
from dalle_jax.layers.attention_masks import Pattern

KINDS = ["full", "row", "column", "convolutional"]


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def test_dense_attention_equals_the_definition():
    q, k, v = normal(0, 1, 1, 3, 4), normal(1, 1, 1, 5, 4), normal(2, 1, 1, 5, 4)
    scores = np.asarray(q)[0, 0] @ np.asarray(k)[0, 0].T / 2
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    np.testing.assert_allclose(dense_attention(q, k, v)[0, 0], weights @ np.asarray(v)[0, 0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("kind", "where"), [*((kind, "cpu") for kind in KINDS), ("row", "tpu"), ("column", "tpu")])
def test_cached_steps_equal_the_stream_while_the_cache_grows(kind, where, monkeypatch):
    monkeypatch.setattr(head_groups, "platform", lambda: where)
    pattern, prompts, candidates, context = Pattern(kind, 3, (4, 5), 3), 2, 3, 3
    codes = pattern.positions - 1
    shared = [normal(seed, prompts, 2, context, 4) for seed in range(3)]
    own = [normal(10 + seed, prompts, candidates, 2, codes, 4) for seed in range(3)]
    whole = [
        jnp.concatenate([jnp.repeat(s[:, None], candidates, 1), o], axis=3).reshape(-1, 2, context + codes, 4)
        for s, o in zip(shared, own, strict=True)
    ]
    expected = dense_attention(*whole, jnp.asarray(pattern.mask(context + codes))[None, None])[:, :, context:]
    expected = expected.reshape(prompts, candidates, 2, codes, 4)

    @jax.jit
    def step(cache, q, k, v, index):
        return step_attention(q, k, v, cache, pattern, index), kv_cache.write(cache, pattern, k, v, index)

    cache = kv_cache.new_cache(shared[1], shared[2], candidates, pattern)
    assert cache.context_v.shape == ((2, 1, 3, 8) if where == "tpu" else (2, 2, 3, 4))
    for index in range(codes):
        if index in (0, 7):
            cache = kv_cache.grow(cache, pattern, 7 if index == 0 else codes)
        out, cache = step(cache, *(x[:, :, :, index] for x in own), jnp.int32(index))
        np.testing.assert_allclose(out, expected[:, :, :, index], rtol=2e-5, atol=2e-6)


def test_sparse_caches_are_no_larger_than_the_reach_of_their_mask():
    k = jnp.zeros((1, 2, 3, 4))
    sizes = {
        kind: kv_cache.grow(kv_cache.new_cache(k, k, 1, pattern), pattern, 1023).k.shape
        for kind in KINDS
        for pattern in [Pattern(kind, 3, (32, 32), 11)]
    }
    assert sizes["full"] == (1, 1, 2, 1023, 4)
    assert sizes["row"] == (1, 1, 2, 32, 4)
    assert sizes["column"] == (1, 1, 2, 32, 32, 4)
    assert sizes["convolutional"] == (1, 1, 2, 5 * 32 + 5, 4)
