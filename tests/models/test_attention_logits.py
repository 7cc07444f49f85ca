"""Attention logits are float32 in every network, whatever its dtype."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.layers.attend import dense_attention, dense_attention_blnh
from dalle_jax.models.clip import ClipBlock, TowerConfig
from dalle_jax.models.clip_resnet import AttentionPool
from dalle_jax.models.vqgan import VqganAttentionBlock
from tests.jaxpr_products import portable_products

WIDTH, ROWS, SIDE = 128, 2, 3
PLACES = SIDE**2


def clip(rngs):
    block = ClipBlock(TowerConfig(width=WIDTH, layers=1, heads=2), activation="gelu", dtype="bfloat16", rngs=rngs)
    return block, lambda x: block.attend(x.reshape(ROWS, PLACES, WIDTH), None), (ROWS, 2, PLACES, PLACES)


def resnet(rngs):
    pool = AttentionPool(PLACES, WIDTH, 8, dtype="bfloat16", rngs=rngs)
    return pool, pool, (ROWS, 2, 1, PLACES + 1)


def vqgan(rngs):
    block = VqganAttentionBlock(WIDTH, "bfloat16", rngs=rngs)
    return block, block, (ROWS, 1, PLACES, PLACES)


@pytest.mark.parametrize("network", [clip, resnet, vqgan])
def test_products_of_bfloat16_queries_and_keys_are_float32(network):
    _, apply, logits = network(nnx.Rngs(0))
    x = jnp.ones((ROWS, SIDE, SIDE, WIDTH), jnp.bfloat16)
    found = [one for one in portable_products(apply, x) if one.outvars[0].aval.shape == logits]
    assert [[str(operand.aval.dtype) for operand in one.invars] for one in found] == [["bfloat16"] * 2]
    assert found[0].outvars[0].aval.dtype == jnp.float32


def test_weights_in_bfloat16_are_those_of_the_exact_logits():
    # Logits near 60 have steps of 0.25 in bfloat16, which moves weights by up to 13 %.
    keys = jax.random.split(jax.random.key(0), 2)
    q, k = (4 * jax.random.normal(key, (1, 1, 16, 16)).astype(jnp.bfloat16) for key in keys)
    v = jnp.eye(16, dtype=jnp.bfloat16)[None, None]
    exact = np.asarray(q, np.float64)[0, 0] @ np.asarray(k, np.float64)[0, 0].T / 4
    expected = np.exp(exact - exact.max(axis=1, keepdims=True))
    expected /= expected.sum(axis=1, keepdims=True)
    found = np.asarray(dense_attention(q, k, v)[0, 0], np.float64)
    np.testing.assert_allclose(found, expected, rtol=2**-8, atol=1e-6)


def test_axes_of_heads_in_either_place_and_scaled_queries_give_the_same():
    q, k, v = (jax.random.normal(jax.random.key(seed), (2, 3, 5, 8)) for seed in range(3))
    mask = jnp.tri(5, dtype=bool)[None, None]
    expected = dense_attention(q, k, v, mask)
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))
    moved, scaled = dense_attention_blnh(q, k, v, mask), dense_attention_blnh(q * 8**-0.5, k, v, mask, scale=1.0)
    np.testing.assert_allclose(moved.swapaxes(1, 2), expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(scaled, moved, rtol=1e-6, atol=1e-6)
