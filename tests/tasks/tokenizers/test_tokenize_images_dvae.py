import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from dalle_jax.losses.logit_laplace import map_pixels, negative_log_likelihood
from dalle_jax.losses.variational import gumbel_softmax, kl_from_uniform, marginal_kl_from_uniform
from dalle_jax.models.dvae import Dvae, DvaeConfig
from dalle_jax.tasks.tokenizers.tokenize_images_dvae import Cosine, DvaeReconstruction, TokenizeImagesDvae

MODEL = DvaeConfig(width=16, codebook_size=16, code_width=16, groups=3, blocks=1)
CONFIG = TokenizeImagesDvae(model=MODEL, image_size=16)
TASK = DvaeReconstruction(CONFIG)
PIXELS = jnp.asarray(np.random.default_rng(0).integers(0, 256, (4, 16, 16, 3), dtype=np.uint8))


def test_the_default_schedules_have_the_values_of_the_paper():
    at = [float(CONFIG.temperature.value(jnp.int32(step))) for step in (0, 75_000, 150_000, 2_000_000)]
    np.testing.assert_allclose(at, [1.0, (1 + 1 / 16) / 2, 1 / 16, 1 / 16], rtol=1e-5)
    at = [float(CONFIG.kl_weight.value(jnp.int32(step))) for step in (0, 1250, 5000, 5001)]
    np.testing.assert_allclose(at, [0.0, 6.6 * (1 - np.cos(np.pi / 4)) / 2, 6.6, 6.6], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("step", [0, 2500, 10_000])
def test_the_loss_is_the_bound_divided_by_the_number_of_values(step):
    module, key = TASK.init(nnx.Rngs(0)), jax.random.key(1)
    loss, sums = TASK.loss(module, {}, {"pixels": PIXELS}, key, jnp.int32(step))
    logits = module.logits(PIXELS / 255.0)
    drawn = module.decoder.soft(gumbel_softmax(logits, CONFIG.temperature.value(jnp.int32(step)), key))
    nll = negative_log_likelihood(map_pixels(PIXELS / 255.0), drawn.mean, drawn.log_scale)
    whole = (nll.sum() + CONFIG.kl_weight.value(jnp.int32(step)) * kl_from_uniform(logits).sum()) / nll.size
    np.testing.assert_allclose(loss, whole, rtol=1e-5)
    np.testing.assert_allclose(sums["elb"][0], -(nll.sum() + kl_from_uniform(logits).sum()) / nll.size, rtol=1e-5)
    assert float(sums["temperature"][0]) <= 1.0


def test_log_scale_floor_bounds_the_log_scale_and_marginal_weight_adds_the_marginal_divergence():
    ours = DvaeReconstruction(dataclasses.replace(CONFIG, log_scale_floor=-1.0, marginal_weight=0.5))
    module, key = ours.init(nnx.Rngs(0)), jax.random.key(1)
    loss, sums = ours.loss(module, {}, {"pixels": PIXELS}, key, jnp.int32(0))
    logits = module.logits(PIXELS / 255.0)
    drawn = module.decoder.soft(gumbel_softmax(logits, jnp.float32(1.0), key))
    bent = jnp.log1p(jnp.exp(drawn.log_scale + 1.0)) - 1.0
    assert float(bent.min()) > -1.0
    nll = negative_log_likelihood(map_pixels(PIXELS / 255.0), drawn.mean, bent).mean()
    np.testing.assert_allclose(loss, nll + 0.5 * marginal_kl_from_uniform(logits), rtol=1e-5)
    np.testing.assert_allclose(sums["marginal_kl"][0], marginal_kl_from_uniform(logits), rtol=1e-5)


def test_at_initialisation_grey_maps_to_zero_and_code_vectors_have_variance_one():
    module = Dvae(dataclasses.replace(MODEL, codebook_size=512, code_width=64), rngs=nnx.Rngs(0))
    grey = module.encoder.input(map_pixels(jnp.full((1, 16, 16, 3), 0.5)))
    np.testing.assert_allclose(grey[:, 3:-3, 3:-3], 0.0, atol=1e-5)  # the padding at the border is not grey
    np.testing.assert_allclose(module.code_vectors.std(), 1.0, atol=0.02)


def test_a_temperature_of_zero_and_a_schedule_of_zero_steps_are_refused():
    with pytest.raises(ValueError, match=r"temperature: expected start and end above 0, got 1\.0 to 0\.0"):
        TokenizeImagesDvae(model=MODEL, image_size=16, temperature=Cosine(1.0, 0.0, 10))
    with pytest.raises(ValueError, match="steps: expected at least 1, got 0"):
        Cosine(1.0, 0.5, 0)
    with pytest.raises(ValueError, match="multiple of 4"):
        TokenizeImagesDvae(model=MODEL, image_size=18)


def test_training_overfits_four_images_of_flat_squares():
    config = dataclasses.replace(CONFIG, temperature=Cosine(1.0, 0.1, 150), kl_weight=Cosine(0.0, 0.0, 1))
    task = DvaeReconstruction(config)
    squares = np.random.default_rng(3).choice(np.array([0, 90, 180, 255], np.uint8), (4, 4, 4, 3))
    batch = {"pixels": jnp.asarray(squares.repeat(4, axis=1).repeat(4, axis=2))}
    graph, params = nnx.split(task.init(nnx.Rngs(0)))
    optimizer = optax.adam(3e-3)

    @jax.jit
    def step(params, moments, index):
        def loss(params):
            return task.loss(nnx.merge(graph, params), {}, batch, jax.random.key(index), index)

        gradients, sums = jax.grad(loss, has_aux=True)(params)
        updates, moments = optimizer.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, sums["nll"][0]

    moments, values = optimizer.init(params), []
    for index in range(200):
        params, moments, value = step(params, moments, index)
        values.append(float(value))
    before = task.evaluate(task.init(nnx.Rngs(0)), {}, batch, jax.random.key(0))["psnr"]
    after = task.evaluate(nnx.merge(graph, params), {}, batch, jax.random.key(0))["psnr"]
    assert values[-1] < values[0] - 0.5
    assert float(after[0] / after[1]) > float(before[0] / before[1]) + 2.0
