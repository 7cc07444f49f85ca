"""The cuDNN backend on an NVIDIA GPU equals masked attention. Needs a GPU.

JAX_PLATFORMS=cuda python -m pytest tests/layers/test_attend_gpu.py -o addopts= --noconftest
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.layers.attend import dense_attention, stream_attention
from dalle_jax.layers.attention_masks import Pattern

pytestmark = pytest.mark.skipif(jax.default_backend() not in ("gpu", "cuda"), reason="needs an NVIDIA GPU")

KINDS = ("full", "row", "column", "convolutional")


def operands(length, size):
    return [jax.random.normal(jax.random.key(seed), (2, 3, length, size), jnp.bfloat16) for seed in range(4)]


def value_and_gradients(attention, q, k, v, weight):
    def weighted(q, k, v):
        out = attention(q, k, v).astype(jnp.float32)
        return (out * weight.astype(jnp.float32)).sum(), out

    gradients, out = jax.jit(jax.grad(weighted, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    return [np.asarray(x, np.float32) for x in (out, *gradients)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("context", "grid", "size"), [(257, (32, 32), 64), (65, (16, 16), 128)])
def test_cudnn_equals_masked_attention_in_values_and_gradients(kind, context, grid, size):
    """Compare bfloat16 with masked attention in float32 on the same operands, to 2 % of the largest entry."""
    pattern = Pattern(kind, context, grid, 11 if grid[0] == 32 else 5)
    length = context + grid[0] * grid[1] - 1
    q, k, v, weight = operands(length, size)
    mask = jnp.asarray(pattern.mask(length))[None, None]
    with jax.default_matmul_precision("float32"):
        wanted = value_and_gradients(
            lambda q, k, v: dense_attention(*(x.astype(jnp.float32) for x in (q, k, v)), mask), q, k, v, weight
        )
    got = value_and_gradients(lambda q, k, v: stream_attention(q, k, v, pattern, "cudnn"), q, k, v, weight)
    for ours, theirs in zip(got, wanted, strict=True):
        assert np.abs(ours - theirs).max() < 0.02 * np.abs(theirs).max()


@pytest.mark.parametrize("kind", KINDS)
def test_cudnn_under_jit_stores_no_scores(kind):
    pattern = Pattern(kind, 257, (32, 32))
    q, k, v, _ = operands(1280, 64)
    text = jax.jit(lambda q, k, v: stream_attention(q, k, v, pattern, "cudnn")).lower(q, k, v).compile().as_text()
    assert "__cudnn$fmha" in text and "f32[2,3,1280,1280]" not in text
