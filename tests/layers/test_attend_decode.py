"""The decode kernel and its write, in Pallas's interpreters on the CPU, against XLA's attention over the same cache."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import pallas
from jax.experimental.pallas import tpu as pltpu
from jax.sharding import AxisType, Mesh

from dalle_jax.config.errors import UserError
from dalle_jax.layers import head_groups, slot_cache
from dalle_jax.layers.attend_backends import attend_decode
from dalle_jax.layers.attend_backends.attend_decode import choose_decode_backend
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.kv_cache import new_cache
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.rules import Rules

CONTEXT, GRID, ROWS, HEADS, SIZE = 3, (20, 8), 4, 4, 64
CHECKED = pltpu.InterpretParams(uninitialized_memory="nan")
"""Interprets as a TPU runs: copies end late, and memory that was not written is NaN."""


@pytest.fixture
def on_tpu(monkeypatch):
    """Trace as on a TPU, for float32 too, and interpret the kernels."""
    for module in (head_groups, attend_decode, slot_cache):
        monkeypatch.setattr(module, "platform", lambda: "tpu")
    monkeypatch.setattr(attend_decode, "decode_obstacle", lambda x, pattern: None)
    monkeypatch.setattr(attend_decode, "BLOCK", 32)

    def interpret(how):
        monkeypatch.setattr(pallas, "pallas_call", functools.partial(pallas.pallas_call, interpret=how))

    return interpret


def drawn(*shape, seed):
    return jax.random.normal(jax.random.key(seed), shape)


def run_passes(pattern, window, backend, *, queries=HEADS, stacked=False, jit=jax.jit):
    """Return the outputs of passes at positions of their own, and the cache after them; two rows share a context."""
    k, v = (drawn(2, HEADS, CONTEXT, SIZE, seed=seed) for seed in (0, 1))
    context, group = jnp.array([0, 1, 1, 0]), jnp.int32(1) if stacked else None

    def one_pass(cache, given):
        at, q, new_k, new_v = given
        cache = slot_cache.write_window(cache, pattern, new_k, new_v, at, group, backend=backend)
        return cache, slot_cache.window_attention(q, cache, pattern, at, context, group=group, backend=backend)

    def run(k, v):
        cache = slot_cache.slot_cache(new_cache(k, v, 1, pattern), pattern, window, ROWS)
        if stacked:  # two layers, of which the second one is used
            cache = jax.tree.map(lambda leaf: jnp.stack([jnp.full_like(leaf, 7.0), leaf], axis=1), cache)
        at = jnp.array([[0, 0, 5, 40], [1, window, 70, 41], [2, 0, 130, 156]])
        given = (
            drawn(3, ROWS, window, heads, SIZE, seed=seed) for seed, heads in ((2, queries), (3, HEADS), (4, HEADS))
        )
        return jax.lax.scan(one_pass, cache, (at, *given))[::-1]

    return jit(run)(k, v)


def assert_equal(found, expected):
    np.testing.assert_allclose(found[0], expected[0], rtol=2e-5, atol=2e-6)
    jax.tree.map(np.testing.assert_array_equal, found[1], expected[1])


def test_grouped_queries_of_a_window_equal_xla_in_a_layer_of_a_scanned_stack(on_tpu):
    pattern, options = Pattern("full", CONTEXT, GRID), {"queries": 2 * HEADS, "stacked": True}
    on_tpu(True)
    assert_equal(run_passes(pattern, 5, "pallas", **options), run_passes(pattern, 5, "xla", **options))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "window"), [("full", 1), ("row", 3), ("convolutional", 4), ("column", 1), ("column", 3), ("column", 8)]
)
def test_the_kernels_equal_xla_for_every_kind(kind, window, on_tpu):
    pattern = Pattern(kind, CONTEXT, GRID, kernel=5)
    on_tpu(True)
    assert_equal(run_passes(pattern, window, "pallas"), run_passes(pattern, window, "xla"))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["convolutional", "column"])  # the last block ends beyond the room
def test_nothing_that_was_not_written_is_read(kind, on_tpu):
    pattern = Pattern(kind, CONTEXT, GRID, kernel=5)
    on_tpu(CHECKED)
    found = run_passes(pattern, 3, "pallas")
    on_tpu(False)
    assert_equal(found, run_passes(pattern, 3, "xla"))


@pytest.mark.slow
def test_devices_share_the_rows_and_heads(on_tpu, monkeypatch):
    """XLA cannot partition a kernel, so each device must call it on its own shards."""
    devices = np.array(jax.devices()[:4]).reshape(2, 1, 2)
    layout = Layout(Mesh(devices, ("data", "fsdp", "tensor"), axis_types=(AxisType.Auto,) * 3), Rules())
    pattern, real, shapes = Pattern("column", CONTEXT, GRID), attend_decode._decode, set()

    def record(q, k, *rest):
        shapes.add((q.shape, k.shape))
        return real(q, k, *rest)

    monkeypatch.setattr(attend_decode, "_decode", record)
    on_tpu(True)
    found = run_passes(pattern, 3, "pallas", jit=layout.jit)
    assert shapes == {((2, 3, 1, 2, 128), (2, 1, 1, 8, 20, 128))}  # 2 of 4 rows, 1 of 2 packed heads
    assert_equal(found, run_passes(pattern, 3, "xla", jit=layout.jit))


def stream(dtype="bfloat16", window=1):
    return jnp.zeros((2, window, 4, 64), dtype)


def test_auto_takes_the_kernel_on_a_tpu_where_it_can(monkeypatch):
    full, column = Pattern("full", CONTEXT, GRID), Pattern("column", CONTEXT, GRID)
    assert choose_decode_backend(stream(), full, "auto") == choose_decode_backend(stream(), full, "xla") == "xla"
    monkeypatch.setattr(attend_decode, "platform", lambda: "tpu")
    assert choose_decode_backend(stream(), full, "auto") == choose_decode_backend(stream(), full, "pallas") == "pallas"
    assert choose_decode_backend(stream(), full, "xla") == "xla"
    assert choose_decode_backend(stream("float32"), full, "auto") == "xla"
    assert choose_decode_backend(stream(window=9), column, "auto") == "xla"
    with pytest.raises(UserError, match="attention = 'pallas': the decode kernel computes in bfloat16, got float32"):
        choose_decode_backend(stream("float32"), full, "pallas")
    with pytest.raises(UserError, match="at most the grid's 8 columns, got 9; 'xla' runs everywhere"):
        choose_decode_backend(stream(window=9), column, "pallas")


def test_the_kernel_elsewhere_is_an_error():
    with pytest.raises(UserError, match="attention = 'pallas': expected to run on a tpu, got a cpu"):
        choose_decode_backend(stream(), Pattern("full", CONTEXT, GRID), "pallas")
