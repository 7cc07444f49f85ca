"""Grouped-query heads: queries of a group share a key and value head, in training, in the cache and in slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small_generators import MIX, dalle, dalle_bart, forward, llamagen

from dalle_jax.models.llamagen import LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByClass
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from dalle_jax.sampling.slots import sample_in_slots

TEXT = jnp.array([[3, 5, 0, 0], [1, 2, 9, 4]])
CLASSES = jnp.array([3, 1])
GROUPED = {
    "dalle": lambda: dalle(MIX, depth=4, heads=4, kv_heads=2),
    "scanned": lambda: dalle(["row", "column"], depth=4, heads=4, kv_heads=1, scan=True),
    "bart": lambda: dalle_bart(decoder_kv_heads=1),
    "llamagen": lambda: llamagen(kv_heads=1),
}


def prompts_of(name):
    return CLASSES if name == "llamagen" else TEXT


def with_own_heads(grouped, whole):
    """Copy the weights of a grouped DALL·E into one of as many key heads as queries, with repeated keys and values."""
    ours, theirs = dict(nnx.to_flat_state(nnx.state(grouped))), dict(nnx.to_flat_state(nnx.state(whole)))
    for path, variable in theirs.items():
        if "qkv" not in path:
            variable.set_value(ours[path].get_value())
            continue
        q, kv = (ours[tuple(name if one == "qkv" else one for one in path)].get_value() for name in ("q", "kv"))
        repeated = jnp.repeat(kv, q.shape[-2] // kv.shape[-2], axis=-2)
        variable.set_value(jnp.concatenate([jnp.expand_dims(q, -3), repeated], axis=-3))
    return whole


def test_the_forward_is_that_of_repeated_key_and_value_heads():
    grouped = GROUPED["dalle"]()
    whole = with_own_heads(grouped, dalle(MIX, depth=4, heads=4))
    codes = jax.random.randint(jax.random.key(0), (2, 12), 0, 7)
    ours, theirs = (forward(model)(TEXT, codes).image for model in (grouped, whole))
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)
    assert np.ptp(np.asarray(ours), axis=-1).min() > 0.1


def test_as_many_key_heads_as_queries_are_the_model_without_the_option():
    plain, named = dalle(MIX, depth=4), dalle(MIX, depth=4, kv_heads=2)
    ours, theirs = (nnx.to_flat_state(nnx.state(model)) for model in (plain, named))
    assert [path for path, _ in ours] == [path for path, _ in theirs]
    for (_, one), (_, other) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one.get_value(), other.get_value())
    codes = jax.random.randint(jax.random.key(0), (2, 12), 0, 7)
    np.testing.assert_array_equal(*(forward(model)(TEXT, codes).image for model in (plain, named)))


@pytest.mark.parametrize("name", GROUPED)
def test_cached_codes_are_the_argmax_of_the_forward_in_steps_and_in_windows(name):
    model, text = GROUPED[name](), prompts_of(name)
    graph, state = nnx.split(model)
    arguments = text, image_keys(jnp.arange(2), 2), Settings.of(2, temperature=0.0)

    def both(state):
        generator = nnx.merge(graph, state)
        return sample(generator, *arguments, guided=False), sample_in_slots(
            generator, *arguments, guided=False, window=4, slots=3
        )

    steps, windows = jax.jit(both)(state)
    forced = forward(model)(text, steps[:, 0]).image
    np.testing.assert_array_equal(steps[:, 0], forced.argmax(-1))
    np.testing.assert_array_equal(windows.codes, steps)
    assert len(np.unique(steps)) > 2


@pytest.mark.parametrize(("name", "kv_heads"), [("dalle", 2), ("bart", 1), ("llamagen", 1)])
def test_the_caches_of_steps_and_slots_hold_key_heads_only(name, kv_heads):
    model = GROUPED[name]()

    def caches():
        cache = model.prefill(prompts_of(name), 2)[1]
        return model.grow(cache, 11), model.slots(cache, 3, rows=4)

    steps, slots = jax.eval_shape(caches)
    for cache in (steps, slots):
        for layer in cache.rest:
            layer = layer if name == "dalle" else layer.codes
            assert layer.context_k.shape[1] == layer.context_v.shape[1] == kv_heads
            assert kv_heads == layer.k.shape[2 if cache is steps else 1] == layer.v.shape[2 if cache is steps else 1]
    if name == "bart":
        assert {layer.text.k.shape for layer in steps.rest} == {(2, kv_heads, 4, 4)}


def test_gradients_reach_queries_keys_and_values():
    graph, state = nnx.split(GROUPED["scanned"]())
    codes = jax.random.randint(jax.random.key(0), (2, 12), 0, 7)
    gradient = jax.jit(jax.grad(lambda state: jnp.square(nnx.merge(graph, state)(TEXT, codes).image).sum()))(state)
    attention = gradient["stack"]["blocks"]["attention"]
    assert attention["q"]["kernel"].shape == (4, 12, 4, 4) and attention["kv"]["kernel"].shape == (4, 12, 2, 1, 4)
    for part in ("q", "kv"):
        assert (
            jnp.abs(attention[part]["kernel"].get_value()).max(axis=(1, 3, 4) if part == "kv" else (1, 3)) > 0
        ).all()


@pytest.mark.parametrize("kv_heads", [0, 3, 8])
def test_key_heads_that_do_not_divide_the_heads_are_one_clear_error(kv_heads):
    message = f"expected a divisor of the 4 heads, or None for 4, got {kv_heads}"
    with pytest.raises(ValueError, match=f"^kv_heads: {message}$"):
        dalle(heads=4, kv_heads=kv_heads)
    with pytest.raises(ValueError, match=f"^decoder_kv_heads: {message}$"):
        dalle_bart(decoder_heads=4, decoder_kv_heads=kv_heads)
    with pytest.raises(ValueError, match=f"^kv_heads: {message}$"):
        LlamaGenConfig(ByClass(5), 7, (3, 4), width=16, depth=1, heads=4, kv_heads=kv_heads)
