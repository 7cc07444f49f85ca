import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.models.llamagen import LlamaGen, LlamaGenConfig, NoCaption
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample

CLASS = LlamaGenConfig(
    condition=ByClass(5), codebook_size=7, grid=(3, 4), width=16, depth=2, heads=2, multiple_of=8, init_std=0.4
)
CAPTION = dataclasses.replace(CLASS, condition=ByCaption(length=4, width=6))
CODES = jax.random.randint(jax.random.key(1), (2, 12), 0, 7)
FEATURES = jax.random.normal(jax.random.key(2), (2, 4, 6)).at[1, :2].set(0)  # the second caption is two tokens long
PROMPTS = {"class": jnp.array([3, 0]), "caption": FEATURES}


def build(config):
    """Build the network with a random head in place of its initial zeros."""
    model = config.build(nnx.Rngs(0))
    model.codes.head.kernel[...] = jax.random.normal(jax.random.key(5), model.codes.head.kernel.shape)
    return model


MODELS = {"class": build(CLASS), "caption": build(CAPTION), "scanned": build(dataclasses.replace(CAPTION, scan=True))}


def of(name):
    model = MODELS[name]
    graph, state = nnx.split(model)
    prompts = PROMPTS["class" if name == "class" else "caption"]
    return model, prompts, jax.jit(lambda prompts, codes: nnx.merge(graph, state)(prompts, codes).image)


@pytest.mark.parametrize("name", ["class", "caption"])
def test_logits_depend_only_on_earlier_codes_and_on_the_prompt(name):
    model, prompts, run = of(name)
    assert isinstance(model, CodeGenerator)
    before = run(prompts, CODES)
    after = run(prompts, CODES.at[:, 5].add(1) % 7)
    np.testing.assert_array_equal(after[:, :6], before[:, :6])
    assert abs(after[:, 6] - before[:, 6]).max() > 1e-3
    other = run(prompts.at[:, -1].add(1.0) if name == "caption" else prompts + 1, CODES)
    assert abs(other - before).max(axis=(0, 2)).min() > 1e-4


@pytest.mark.parametrize("name", MODELS)
def test_cached_decoding_equals_teacher_forcing(name):
    model, prompts, run = of(name)
    codes = jax.random.randint(jax.random.key(0), (2, 3, 12), 0, 7)
    graph, state = nnx.split(model)
    forced = run(jnp.repeat(prompts, 3, axis=0), codes.reshape(-1, 12)).reshape(2, 3, 12, 7)
    decode = jax.jit(lambda previous, i, cache: nnx.merge(graph, state).decode(previous, i, cache))
    first, cache = jax.jit(lambda prompts: nnx.merge(graph, state).prefill(prompts, 3))(prompts)
    np.testing.assert_allclose(jnp.repeat(first[:, None], 3, 1), forced[:, :, 0], rtol=1e-4, atol=1e-4)
    for position in range(1, 12):
        if position in (1, 6):
            cache = model.grow(cache, 5 if position == 1 else 11)
        logits, cache = decode(codes[:, :, position - 1], jnp.int32(position), cache)
        np.testing.assert_allclose(logits, forced[:, :, position], rtol=1e-4, atol=1e-4)


def test_attention_does_not_see_the_padding_of_a_caption():
    model, features, run = of("caption")
    short = dataclasses.replace(CAPTION, condition=ByCaption(length=2, width=6))
    graph = nnx.split(nnx.eval_shape(lambda: LlamaGen(short, rngs=nnx.Rngs(0))))[0]
    model = nnx.clone(model)
    model.condition.none = NoCaption(model.condition.none[...][:2])
    state = nnx.split(model)[1]
    alone = jax.jit(lambda features, codes: nnx.merge(graph, state)(features, codes).image)
    np.testing.assert_allclose(run(features, CODES)[1], alone(features[:, 2:], CODES)[1], rtol=1e-4, atol=1e-5)
    whole = features.at[1, 1].set(1.0)
    assert abs(run(whole, CODES)[1] - run(features, CODES)[1]).max() > 1e-3


def test_the_empty_prompt_is_the_class_after_the_last_or_the_stored_caption_with_padding():
    np.testing.assert_array_equal(MODELS["class"].empty(PROMPTS["class"]), [5])
    model = MODELS["caption"]
    empty = model.empty(FEATURES)
    np.testing.assert_array_equal(empty[0], model.condition.none[...])
    np.testing.assert_array_equal(empty[1], model.condition.none[...].at[:2].set(0))


@pytest.mark.parametrize("name", ["class", "caption"])
def test_greedy_guided_samples_are_the_argmax_of_guided_teacher_forcing(name):
    model, prompts, run = of(name)
    graph, state = nnx.split(model)
    settings = Settings.of(2, temperature=0.0, guidance=2.5)
    draw = jax.jit(lambda prompts, keys: sample(nnx.merge(graph, state), prompts, keys, settings, guided=True))
    codes = draw(prompts, image_keys(jnp.arange(2), 1))[:, 0]
    empty = jnp.broadcast_to(model.empty(prompts), prompts.shape)
    with_prompt, without = run(prompts, codes), run(empty, codes)
    np.testing.assert_array_equal(codes, (without + 2.5 * (with_prompt - without)).argmax(-1))


def test_every_parameter_is_used_and_names_its_axes():
    for name in MODELS:
        model, prompts, _ = of(name)
        graph, params, others = nnx.split(model, nnx.Param, ...)

        def loss(params, graph=graph, others=others, prompts=prompts):
            return (nnx.merge(graph, params, others)(prompts, CODES).image ** 2).sum()

        for path, leaf in nnx.to_flat_state(jax.jit(jax.grad(loss))(params)):
            assert abs(leaf[...]).max() > 0, path
            assert len(leaf.axes) == leaf[...].ndim, path


def test_the_hidden_width_is_eight_thirds_of_the_width_rounded_up_to_a_multiple():
    def hidden(width, heads):
        return dataclasses.replace(CLASS, width=width, heads=heads, multiple_of=256).hidden

    assert (hidden(768, 12), hidden(1024, 16), hidden(1280, 20)) == (2048, 2816, 3584)


def test_a_width_that_is_not_a_multiple_of_four_times_the_heads_is_an_error():
    with pytest.raises(ValueError, match=r"width: expected a multiple of 4 \* heads \(12\), got 16"):
        dataclasses.replace(CLASS, heads=3)
