"""QK-norm: attention does not depend on the size of queries and keys, in training and with a cache."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.layers.attention import SelfAttention
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.models.dalle import DalleConfig

CONFIG = DalleConfig(
    text_vocab=11, text_length=4, codebook_size=7, grid=(2, 3), width=16, depth=2, heads=2, head_size=8, qk_norm=True
)
TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
CODES = jax.random.randint(jax.random.key(1), (2, 6), 0, 7)


@pytest.mark.parametrize(("qk_norm", "same"), [(True, True), (False, False)])
def test_larger_queries_change_nothing(qk_norm, same):
    layer = SelfAttention(16, 2, 8, qk_norm=qk_norm, dtype="float32", rngs=nnx.Rngs(0))
    x, pattern = jax.random.normal(jax.random.key(0), (1, 10, 16)), Pattern("full", 4, (2, 3))
    before = layer(x, pattern)
    layer.qkv.kernel[...] = layer.qkv.kernel[...].at[:, 0].multiply(30.0)
    assert np.allclose(layer(x, pattern), before, rtol=1e-3, atol=1e-4) == same


@pytest.mark.parametrize("kv_heads", [None, 1])
def test_cached_logits_equal_those_of_teacher_forcing(kv_heads):
    model = replace(CONFIG, kv_heads=kv_heads).build(nnx.Rngs(0))
    model.stack.blocks[0].attention.norm_q.scale[...] = jnp.linspace(0.5, 2.0, 8)
    expected = model(TEXT, CODES).image
    logits, cache = model.prefill(TEXT, 1)
    cache = model.grow(cache, 6)
    found = [logits]
    for position in range(1, 6):
        step, cache = model.decode(CODES[:, position - 1 : position], jnp.int32(position), cache)
        found.append(step[:, 0])
    np.testing.assert_allclose(jnp.stack(found, axis=1), expected, rtol=1e-4, atol=1e-5)
