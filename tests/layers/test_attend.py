"""Every attention backend equals masked attention, and each platform gets the right backend."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.config.errors import UserError
from dalle_jax.layers import attend
from dalle_jax.layers.attend import choose_backend, dense_attention, stream_attention
from dalle_jax.layers.attend_backends import attend_cudnn
from dalle_jax.layers.attend_backends.attend_splash import (
    Tiling,
    best_tiling,
    blocks_run,
    splash_attention,
    stream_mask,
)
from dalle_jax.layers.attention_masks import Pattern

KINDS = ["full", "row", "column", "convolutional"]
GRID = (9, 16)
CONTEXT = 20


def normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


def value_and_gradients(attention, pattern, length):
    """Return the attention of a stream of 2 examples and 2 heads, and the gradients of a weighted sum of it."""
    q, k, v, weight = (normal(seed, 2, 2, length, 8) for seed in range(4))

    @jax.jit
    def weighted(q, k, v):
        out = attention(q, k, v, pattern)
        return (out * weight).sum(), out

    return jax.grad(weighted, argnums=(0, 1, 2), has_aux=True)(q, k, v)


def brute_force(q, k, v, pattern):
    return dense_attention(q, k, v, jnp.asarray(pattern.mask(q.shape[2]))[None, None])


def assert_equals_masked_attention(attention, pattern, length, tolerance=2e-5):
    ours = value_and_gradients(attention, pattern, length)
    theirs = value_and_gradients(brute_force, pattern, length)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("grid", [(12, 12), (3, 5)])
def test_blockwise_attention_equals_masked_attention_in_values_and_gradients(kind, grid):
    assert_equals_masked_attention(stream_attention, Pattern(kind, 5, grid, 3), 5 + grid[0] * grid[1] - 1)


@pytest.mark.parametrize(
    ("kind", "transposed"),
    [("full", False), ("row", False), ("convolutional", False), ("column", False), ("column", True)],
)
def test_the_splash_kernel_equals_masked_attention_in_values_and_gradients(kind, transposed):
    def attention(q, k, v, pattern):
        return splash_attention(q, k, v, pattern, tiling=Tiling(128, 256, transposed), interpret=True)

    assert_equals_masked_attention(attention, Pattern(kind, CONTEXT, GRID, 5), CONTEXT + 9 * 16 - 1)


def test_the_two_separate_backward_kernels_equal_the_fused_one(monkeypatch):
    monkeypatch.setattr("dalle_jax.layers.attend_backends.attend_splash.MAX_FUSED_BLOCKS", 1)

    def attention(q, k, v, pattern):
        return splash_attention(q, k, v, pattern, tiling=Tiling(128, 256), interpret=True)

    assert_equals_masked_attention(attention, Pattern("row", CONTEXT + 1, GRID), CONTEXT + 9 * 16)


def test_a_padding_position_attends_to_itself_only_and_no_other_position_attends_to_it():
    mask = stream_mask(Pattern("row", CONTEXT, GRID), 163, Tiling(128, 256))
    np.testing.assert_array_equal(mask[163:], np.eye(256, dtype=bool)[163:])
    assert not mask[:163, 163:].any()


def test_transposed_columns_have_more_empty_blocks():
    """DALL·E 1's stream of 256 + 1024 has 100 blocks of 128; full attention runs 55, transposed columns 27."""
    patterns = {kind: Pattern(kind, 256, (32, 32), 11) for kind in KINDS}
    run = {kind: blocks_run(pattern, 1280, Tiling(128, 1280)) for kind, pattern in patterns.items()}
    assert run == {"full": 55, "row": 34, "column": 55, "convolutional": 40}
    assert blocks_run(patterns["column"], 1280, Tiling(128, 1280, True)) == 27


def test_tilings_cover_the_stream_and_transpose_if_that_saves_blocks():
    for context, grid in ((257, (32, 32)), (1, (16, 16)), (65, (8, 8))):
        for kind in KINDS:
            length = context + grid[0] * grid[1] - 1
            tiling = best_tiling(Pattern(kind, context, grid), length)
            assert tiling.length % tiling.block == 0
            assert tiling.length - tiling.block < length + tiling.transposed <= tiling.length
    assert best_tiling(Pattern("column", 257, (64, 64)), 4352).transposed
    assert not best_tiling(Pattern("column", 5, (4, 4)), 20).transposed  # one block in either order


@pytest.fixture
def cudnn_calls(monkeypatch):
    """Record calls of cuDNN's kernel (implementation, is_causal, shape of the mask); XLA computes them instead."""
    real, calls = jax.nn.dot_product_attention, []

    def fake(q, k, v, *, mask, is_causal, implementation):
        calls.append((implementation, is_causal, None if mask is None else mask.shape))
        assert q.shape[1] % 2 == k.shape[1] % 2 == 0  # the kernel requires even lengths
        return real(q, k, v, mask=mask, is_causal=is_causal, implementation="xla")

    monkeypatch.setattr(attend_cudnn.jax.nn, "dot_product_attention", fake)
    return calls


@pytest.mark.parametrize("length", [25, 26])
@pytest.mark.parametrize("kind", KINDS)
def test_cudnn_is_called_causally_for_full_attention_and_with_a_mask_otherwise(kind, length, cudnn_calls):
    assert_equals_masked_attention(attend_cudnn.cudnn_attention, Pattern(kind, 6, (4, 5), 3), length)
    assert set(cudnn_calls) == {("cudnn", True, None) if kind == "full" else ("cudnn", False, (1, 1, 26, 26))}


@pytest.mark.parametrize(("kind", "context", "keys"), [("row", 9, 22), ("column", 9, 18), ("convolutional", 8, 22)])
def test_cudnn_gets_blocks_of_image_tokens_if_that_saves_pairs(kind, context, keys, cudnn_calls, monkeypatch):
    monkeypatch.setattr(attend_cudnn, "BLOCK", 8)
    attend_cudnn.image_blocks.cache_clear()
    pattern = Pattern(kind, context, (8, 4) if kind != "column" else (8, 6), 3)
    assert_equals_masked_attention(attend_cudnn.cudnn_attention, pattern, context + pattern.positions - 1)
    attend_cudnn.image_blocks.cache_clear()
    blocks = pattern.positions // 8
    assert set(cudnn_calls) == {("cudnn", True, None), ("cudnn", False, (2 * blocks, 1, 8, keys))}


def stream(length=20, dtype="bfloat16", size=64):
    return jnp.zeros((1, 2, length, size), dtype)


def set_platform(monkeypatch, name):
    monkeypatch.setattr(attend, "platform", lambda: name)


def test_auto_picks_a_backend_that_supports_the_platform_and_the_shapes(monkeypatch):
    assert choose_backend(stream(), "auto") == "xla"
    set_platform(monkeypatch, "tpu")
    assert [choose_backend(stream(length), "auto") for length in (127, 128)] == ["xla", "splash"]
    assert choose_backend(stream(128, dtype="float32"), "auto") == "xla"
    set_platform(monkeypatch, "gpu")
    assert [choose_backend(stream(), name) for name in ("auto", "cudnn")] == ["cudnn", "cudnn"]
    assert choose_backend(stream(dtype="float32"), "auto") == choose_backend(stream(size=20), "auto") == "xla"
    for where in ("cpu", "gpu", "tpu"):
        set_platform(monkeypatch, where)
        assert choose_backend(stream(), "xla") == "xla"


@pytest.mark.parametrize(
    ("where", "backend", "sizes", "words"),
    [
        ("cpu", "splash", {}, "backend = 'splash': expected to run on a tpu, got a cpu"),
        ("gpu", "splash", {}, "got a gpu"),
        ("tpu", "cudnn", {}, "backend = 'cudnn': expected to run on a gpu, got a tpu"),
        ("tpu", "splash", {"dtype": "float32"}, "the splash kernel computes in bfloat16, got float32"),
        ("gpu", "cudnn", {"dtype": "float32"}, "bfloat16 or float16, got float32"),
        ("gpu", "cudnn", {"size": 20}, "multiple of 8 and at most 128, got 20"),
    ],
)
def test_an_unsupported_kernel_is_an_error_with_the_reason(where, backend, sizes, words, monkeypatch):
    set_platform(monkeypatch, where)
    with pytest.raises(UserError, match=words):
        choose_backend(stream(**sizes), backend)


@pytest.mark.parametrize("kind", KINDS)
def test_xla_on_an_accelerator_computes_dense_attention(kind, monkeypatch):
    pattern = Pattern(kind, 5, (4, 4), 3)
    q, k, v = (normal(seed, 1, 2, 20, 4) for seed in range(3))
    set_platform(monkeypatch, "gpu")
    text = jax.jit(lambda q, k, v: stream_attention(q, k, v, pattern, "xla")).lower(q, k, v).as_text()
    assert "tensor<1x2x20x20xf32>" in text  # all pairs at once
    np.testing.assert_allclose(
        stream_attention(q, k, v, pattern, "xla"), brute_force(q, k, v, pattern), rtol=1e-5, atol=1e-6
    )


def test_the_chosen_kernel_is_called(monkeypatch):
    set_platform(monkeypatch, "tpu")
    monkeypatch.setattr(attend, "splash_attention", lambda q, k, v, pattern: q + 1)
    monkeypatch.setattr(attend, "cudnn_attention", lambda q, k, v, pattern: q + 2)
    x, pattern = stream(128), Pattern("full", 5, (12, 12))
    assert float(stream_attention(x, x, x, pattern).max()) == 1
    set_platform(monkeypatch, "gpu")
    assert float(stream_attention(x, x, x, pattern, "cudnn").max()) == 2
