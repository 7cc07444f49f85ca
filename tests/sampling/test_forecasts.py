"""Guesses of forecasting heads: they save passes, and no code depends on them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from small_generators import dalle, llamagen

from dalle_jax.models.heads.forecast_heads import ForecastHeadsConfig
from dalle_jax.sampling.autoregressive import Settings, image_keys, sample
from dalle_jax.sampling.forecasts import Forecast
from dalle_jax.sampling.slots import SlotDecoder, sample_in_slots
from dalle_jax.tasks.forecast_codes import CodeForecasting, ForecastCodes
from dalle_jax.tasks.generate_from_conditions import GenerateFromConditions

SIZE, LENGTH = 11, 24


@dataclasses.dataclass(frozen=True)
class Counting(SlotDecoder):
    """A decoder whose code i is code i - 1 plus 3, modulo 11, and whose heads know this or guess one too many."""

    heads: int = 0
    wrong: int = 0
    grid: tuple[int, int] = (4, 6)
    codebook_size: int = SIZE

    def empty(self, text):
        return text[:1] * 0

    def prefill(self, text, candidates):
        del candidates
        return jax.nn.one_hot(text[:, 0], SIZE) * 50, jnp.zeros((len(text), 1))

    def slots(self, cache, window, rows):
        del window, rows
        return cache

    def for_decoding(self, rows):
        del rows
        return self

    def window_outputs(self, previous, position, cache, context=None):
        del position, context
        return jax.nn.one_hot((previous + 3) % SIZE, SIZE), cache

    def code_logits(self, outputs):
        return outputs * 50

    def forecast(self, outputs, codes):
        if not self.heads:
            return None
        np.testing.assert_equal(outputs.shape[:-1], codes.shape)
        ahead = codes[..., None] + 3 * (1 + jnp.arange(self.heads)) + self.wrong
        return Forecast(jax.nn.one_hot(ahead % SIZE, SIZE) * 50, jnp.ones(self.heads))


def drawn(decoder: Counting, window: int):
    text, keys = jnp.array([[4], [9]]), image_keys(jnp.array([1, 2]), 1)
    run = jax.jit(functools.partial(sample_in_slots, decoder, guided=False, window=window))
    return run(text, keys, Settings.of(2))


def test_right_guesses_of_the_next_code_make_two_codes_final_in_each_pass():
    expected = (jnp.array([[4], [9]]) + 3 * jnp.arange(LENGTH)) % SIZE
    passes = {}
    for heads, wrong in ((0, 0), (2, 0), (2, 1)):
        found = drawn(Counting(heads, wrong), window=3)
        np.testing.assert_array_equal(found.codes[:, 0], expected)
        passes[heads, wrong] = int(found.passes)
    assert passes[0, 0] == passes[2, 1] == LENGTH - 1
    assert passes[2, 0] == 1 + (LENGTH - 2) // 2  # the heads guess after the first pass, which draws code 1


def test_new_heads_guess_by_the_noise_alone():
    config = ForecastHeadsConfig(codebook_size=7, width=8, heads=3)
    found = config.build(nnx.Rngs(0))(jnp.ones((2, 8)), jnp.ones((2, 8)))
    np.testing.assert_array_equal(found.logits, np.zeros((2, 3, 7)))
    np.testing.assert_array_equal(found.noise, np.ones(3))
    with pytest.raises(ValueError, match="heads: expected 1 or more, got 0"):
        dataclasses.replace(config, heads=0)


@pytest.mark.slow
@pytest.mark.parametrize("attention", [("full",), ("row", "column"), ("convolutional",)])
def test_trained_heads_save_passes_of_every_attention_and_change_no_code(attention):
    _trained_heads_save_passes(dalle(attention), jax.random.randint(jax.random.key(1), (64, 4), 0, 11))


@pytest.mark.slow
def test_trained_heads_save_passes_of_llamagen():
    _trained_heads_save_passes(llamagen(), jnp.arange(64) % 5)


def _trained_heads_save_passes(model, prompts):
    """Train heads on codes that the model draws, and sample other images with and without them."""
    plain = jax.jit(functools.partial(sample, model, guided=True))
    settings = Settings.of(64, temperature=0.5, guidance=2.0)
    codes = plain(prompts, image_keys(jnp.arange(64), 1), settings)[:, 0]
    generate = GenerateFromConditions(model=llamagen().config)  # gives nothing but the codes of the batch
    task = CodeForecasting(ForecastCodes(generate, "unread", guidance=2.0), generate.open_for_plan(), model, "")
    heads = ForecastHeadsConfig(model.codebook_size, model.config.width).build(nnx.Rngs(0))
    optimizer = nnx.Optimizer(heads, optax.adam(0.02), wrt=nnx.Param)
    batch = {"codes": codes, "condition": prompts}

    @nnx.jit
    def step(heads, optimizer, key):
        loss = lambda heads: task.loss(heads, {"transformer": model}, batch, key, jnp.int32(0))  # noqa: E731
        (_, sums), gradients = nnx.value_and_grad(loss, has_aux=True)(heads)
        optimizer.update(heads, gradients)
        return sums

    for number in range(300):
        step(heads, optimizer, jax.random.key(number))
    keys = image_keys(jnp.arange(100, 164), 1)
    expected, passes = plain(prompts, keys, settings), []
    for own in (None, heads):
        model.forecast_heads = nnx.data(own)
        found = jax.jit(functools.partial(sample_in_slots, model, guided=True, window=4, slots=8))(
            prompts, keys, settings
        )
        np.testing.assert_array_equal(found.codes, expected)
        passes.append(int(found.passes))
    print(f"passes without heads and with them: {passes}")
    assert passes[1] < passes[0]
