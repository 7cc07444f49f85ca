"""Guidance: costs of forwards, the identity at scale 1, intervals, rescaling, and guidance by a gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.guidance import Guidance, classifier_free, clip_gradient, score_guided
from dalle_jax.diffusion.levels import NoiseLevel, initial_noise, per_row
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ModelOutput, Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.sampler import KeyedNoise
from dalle_jax.diffusion.spacing import SectionSteps
from tests.diffusion.gaussians import DEVIATION, MEAN, gaussian

KEYS = jax.random.split(jax.random.key(0), 6)
X = initial_noise(KEYS, (5,))
LEVELS = DiscreteProcess.of(CosineNoise(), SectionSteps((10,))).levels
CONDITIONS = {"mean": jnp.linspace(-1, 1, 6)}
EMPTY = {"mean": jnp.zeros(6)}


class Network:
    """A conditioned denoiser of Gaussians that counts the rows of its forwards."""

    def __init__(self):
        self.rows = []

    def __call__(self, x, level, conditions):
        jax.debug.callback(lambda: self.rows.append(x.shape[0]))
        mean = per_row(conditions["mean"], x)
        moved = x - per_row(level.alpha, x) * mean
        return ModelOutput(gaussian(mean=0.0)(moved, level).prediction, jnp.broadcast_to(mean, x.shape))


def sampled(guidance, network, prediction="noise"):
    denoise = classifier_free(network, CONDITIONS, EMPTY, guidance)
    run = jax.jit(lambda x: Ddim().sample(denoise, LEVELS, x, KeyedNoise(KEYS), Parameterization(prediction)))
    out = run(X).block_until_ready()
    jax.effects_barrier()
    return out


def test_guidance_of_1_is_no_guidance_and_costs_one_forward():
    network, guided = Network(), Network()
    expected = sampled(Guidance(), network)
    assert network.rows == [6] * 10
    np.testing.assert_allclose(sampled(Guidance(1.0 + 1e-7), guided), expected, atol=1e-5)
    assert guided.rows == [12] * 10


def test_guidance_extrapolates_the_noise_and_keeps_the_conditional_variance():
    network, level = Network(), NoiseLevel(jnp.zeros(6), jnp.full(6, 0.6), jnp.full(6, 0.8))
    conditional, empty = network(X, level, CONDITIONS), network(X, level, EMPTY)
    found = classifier_free(network, CONDITIONS, EMPTY, Guidance(3.0))(X, level)
    wanted = empty.prediction + 3 * (conditional.prediction - empty.prediction)
    np.testing.assert_allclose(found.prediction, wanted, atol=1e-5)
    np.testing.assert_array_equal(found.variance, conditional.variance)


def test_guidance_acts_in_its_interval_alone_and_costs_one_forward_outside():
    ratio = LEVELS.sigmas[:-1] / LEVELS.alphas[:-1]
    network = Network()
    out = sampled(Guidance(3.0, low=0.5, high=5.0), network)
    assert network.rows == [12 if 0.5 < one <= 5 else 6 for one in ratio]
    assert set(network.rows) == {6, 12}
    assert jnp.abs(out - sampled(Guidance(3.0), Network())).max() > 1e-3
    np.testing.assert_allclose(
        sampled(Guidance(3.0, high=1e9), Network()), sampled(Guidance(3.0), Network()), atol=1e-5
    )
    np.testing.assert_allclose(sampled(Guidance(3.0, low=1e9), Network()), sampled(Guidance(), Network()), atol=1e-5)


def test_rescaling_gives_the_deviation_of_the_conditional_prediction():
    level = NoiseLevel(jnp.zeros(6), jnp.full(6, 0.6), jnp.full(6, 0.8))

    def network(x, level, scale):
        del level
        return ModelOutput(x * per_row(scale, x))

    ones, twos = jnp.ones(6), jnp.full(6, 2.0)
    whole = classifier_free(network, twos, ones, Guidance(4.0, rescale=1.0))(X, level).prediction
    np.testing.assert_allclose(whole.std(-1), (2 * X).std(-1), rtol=1e-5)
    half = classifier_free(network, twos, ones, Guidance(4.0, rescale=0.5))(X, level).prediction
    np.testing.assert_allclose(half, (2 * X + 5 * X) / 2, rtol=1e-5)


def test_a_wrong_option_of_guidance_is_an_error():
    for options in ({"scale": -1.0}, {"rescale": 1.5}, {"low": 2.0, "high": 1.0}):
        with pytest.raises(ValueError, match="expected"):
            Guidance(**options)


@pytest.mark.parametrize("prediction", ["noise", "x0", "v"])
def test_guidance_by_a_gradient_samples_the_posterior(prediction):
    """A Gaussian prior times a Gaussian likelihood of x0, whose noised gradient is known, is a Gaussian."""
    seen, width = 1.4, 0.3
    posterior_variance = 1 / (1 / DEVIATION**2 + 1 / width**2)
    posterior_mean = posterior_variance * (MEAN / DEVIATION**2 + seen / width**2)

    def gradient(x, level):
        alpha, sigma = per_row(level.alpha, x), per_row(level.sigma, x)
        total = alpha**2 * DEVIATION**2 + sigma**2
        gain = alpha * DEVIATION**2 / total
        expected, left = MEAN + gain * (x - alpha * MEAN), DEVIATION**2 * sigma**2 / total + width**2
        return gain * (seen - expected) / left

    keys = jax.random.split(jax.random.key(1), 2000)
    levels = DiscreteProcess.of(CosineNoise(), SectionSteps((200,))).levels
    denoise = score_guided(gaussian(prediction), gradient, 1.0, prediction)
    run = jax.jit(lambda x: DpmSolver(2).sample(denoise, levels, x, KeyedNoise(keys), Parameterization(prediction)))
    out = run(initial_noise(keys, (4,)))
    np.testing.assert_allclose(out.mean(), posterior_mean, atol=0.02)
    np.testing.assert_allclose(out.std(), posterior_variance**0.5, atol=0.02)


def test_clip_guidance_follows_the_gradient_of_the_similarity():
    text = jax.random.normal(jax.random.key(2), (6, 3))
    matrix = jax.random.normal(jax.random.key(3), (5, 3))
    level = NoiseLevel(jnp.zeros(6), jnp.full(6, 0.6), jnp.full(6, 0.8))
    gradient = clip_gradient(lambda x, level: level.alpha[:, None] * (x @ matrix), text)
    np.testing.assert_allclose(gradient(X, level), 0.6 * text @ matrix.T, rtol=1e-4, atol=1e-5)
    found = score_guided(gaussian(), gradient, 2.0, "noise")(X, level).prediction
    np.testing.assert_allclose(found, gaussian()(X, level).prediction - 0.8 * 2 * gradient(X, level), atol=1e-4)
