import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.layers import head_groups
from dalle_jax.layers import slot_cache as module
from dalle_jax.layers.attend import dense_attention
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.kv_cache import new_cache
from dalle_jax.layers.slot_cache import slot_cache, window_attention, write_window

KINDS = ["full", "row", "column", "convolutional"]
CONTEXT, GRID, CODES = 3, (4, 5), 20


def stream(seed=0):
    """Return queries, keys and values [2 N C+I H] of two rows."""
    return jax.random.normal(jax.random.key(seed), (3, 2, 2, CONTEXT + CODES, 4))


def cache_of(k, v, pattern, window):
    context = k[:, :, :CONTEXT], v[:, :, :CONTEXT]
    return slot_cache(new_cache(*context, 1, pattern), pattern, window, rows=2)


def at_codes(x, codes):
    """Return x [2 N C+I H] at codes [2 W], as [2 W N H]; codes beyond the grid repeat the last."""
    return jax.vmap(lambda row, at: row[:, CONTEXT + jnp.minimum(at, CODES - 1)])(x, codes).swapaxes(1, 2)


@pytest.mark.parametrize(
    ("kind", "window", "where"),
    [*((kind, window, "cpu") for kind in KINDS for window in (1, 3, 7)), ("column", 3, "tpu"), ("full", 3, "tpu")],
)
def test_rows_at_their_own_positions_equal_attention_over_the_stream(kind, window, where, monkeypatch):
    monkeypatch.setattr(head_groups, "platform", lambda: where)
    pattern, (q, k, v) = Pattern(kind, CONTEXT, GRID, kernel=3), stream()
    expected = dense_attention(q, k, v, jnp.asarray(pattern.mask(CONTEXT + CODES))[None, None])
    cache = cache_of(k, v, pattern, window)
    pass_of = jax.jit(
        lambda cache, index, q, k, v: (
            new := write_window(cache, pattern, k, v, index),
            window_attention(q, new, pattern, index, None),
        )
    )
    # the second row goes back and begins anew, as a slot that a new image takes, and jumps by other steps
    for index in ([0, 0], [window, 1], [window + 1, 0], [2 * window, 1], [2 * window + 1, window]):
        index = jnp.array(index)
        codes = index[:, None] + jnp.arange(window)
        cache, out = pass_of(cache, index, *(at_codes(x, codes) for x in (q, k, v)))
        inside = np.asarray(codes) < CODES - 1
        np.testing.assert_allclose(out[inside], at_codes(expected, codes)[inside], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("most", [1, 8], ids=["copies", "as one"])
@pytest.mark.parametrize("masked", [False, True])
def test_rows_in_any_order_read_their_own_context_and_adjacent_rows_share_it(most, masked, monkeypatch):
    monkeypatch.setattr(module, "MOST_SHARED", most)
    pattern, window = Pattern("full", CONTEXT, GRID), 2
    k, v = jax.random.normal(jax.random.key(1), (2, 2, 2, CONTEXT, 4))
    seen = jnp.array([[True, False, True], [False, True, True]])
    q, own_k, own_v = jax.random.normal(jax.random.key(2), (3, 4, window, 2, 4))

    def attend(contexts, context):
        cache = slot_cache(new_cache(k[contexts], v[contexts], 1, pattern), pattern, window, rows=4)
        cache = write_window(cache, pattern, own_k, own_v, jnp.zeros(4, int))
        return window_attention(q, cache, pattern, jnp.zeros(4, int), context, seen[contexts] if masked else None)

    both, mixed, pairs = jnp.arange(2), jnp.array([1, 0, 1, 1]), jnp.array([0, 0, 1, 1])
    alone = attend(mixed, None)  # each row has a context of its own
    np.testing.assert_allclose(attend(both, mixed), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(attend(both, None), attend(pairs, None), rtol=1e-5, atol=1e-6)
    assert np.abs(alone[0] - attend(pairs, None)[0]).max() > 0.01


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_keys_that_were_written_ahead_are_never_seen(kind):
    pattern, (q, k, v), window = Pattern(kind, CONTEXT, GRID, kernel=3), stream(), 4
    wrong = stream(1)

    @jax.jit
    def one_pass(cache, index, right):
        """Write ``right`` right codes, then wrong ones, and read the right ones."""
        codes = index[:, None] + jnp.arange(window)
        own = [at_codes(x, codes) for x in (q, k, v)]
        bad = [at_codes(x, codes) for x in wrong]
        keep = (jnp.arange(window) < right)[None, :, None, None]
        here, keys, values = (jnp.where(keep, *two) for two in zip(own, bad, strict=True))
        cache = write_window(cache, pattern, keys, values, index)
        return cache, window_attention(here, cache, pattern, index, None)

    def run(rights):
        cache, index, outs = cache_of(k, v, pattern, window), 0, {}
        for right in rights:
            cache, out = one_pass(cache, jnp.array([index, index]), right)
            outs |= {index + place: np.asarray(out[:, place]) for place in range(right)}
            index += right
        return outs

    slowly, quickly = run([1] * 16), run([4, 1, 3, 2, 4, 2])
    assert slowly.keys() == quickly.keys()
    for code in slowly:
        np.testing.assert_array_equal(quickly[code], slowly[code])
