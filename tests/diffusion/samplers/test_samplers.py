"""Samplers on data whose score is known: moments, the exact solution of the ODE, orders, costs, noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.continuous import CosinePath, RectifiedFlow, VariancePath
from dalle_jax.diffusion.levels import Levels, initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, ModelOutput, Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.analytic_dpm import AnalyticDpm, noise_moments
from dalle_jax.diffusion.samplers.ddim import Ddim, invert
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.flow_ode import Euler, Heun
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, RecordedNoise
from dalle_jax.diffusion.spacing import SectionSteps
from tests.diffusion.gaussians import DEVIATION, MEAN, gaussian, two_points

NOISE = Parameterization("noise")
KEYS = jax.random.split(jax.random.key(0), 4096)
X = initial_noise(KEYS, (4,))


def process(steps):
    return DiscreteProcess.of(CosineNoise(), SectionSteps((steps,)))


def drawn(sampler, levels, denoise=None, form=NOISE, x=X, noise=None):
    noise = KeyedNoise(KEYS) if noise is None else noise
    return jax.jit(lambda x: sampler.sample(denoise or gaussian(form.prediction), levels, x, noise, form))(x)


def exact(x, levels):
    """The ODE's solution for Gaussian data: the distance from the mean grows as the deviation of x_t."""
    alpha, sigma, end_alpha, end_sigma = levels.alphas[0], levels.sigmas[0], levels.alphas[-1], levels.sigmas[-1]
    growth = np.sqrt((end_alpha**2 * DEVIATION**2 + end_sigma**2) / (alpha**2 * DEVIATION**2 + sigma**2))
    return end_alpha * MEAN + growth * (np.asarray(x, np.float64) - alpha * MEAN)


@pytest.mark.parametrize(
    "sampler", [Ddpm("fixed_small"), Ddpm("fixed_large"), Ddim(), Ddim(0.5), Ddim(1.0), DpmSolver(2)], ids=str
)
def test_samples_of_a_gaussian_have_its_mean_and_deviation(sampler):
    samples = drawn(sampler, process(200).levels)
    np.testing.assert_allclose(samples.mean(), MEAN, atol=0.02)
    np.testing.assert_allclose(samples.std(), DEVIATION, atol=0.02)


@pytest.mark.parametrize("sampler", [Ddpm("fixed_small"), Ddim(), DpmSolver(3)], ids=str)
def test_samples_of_two_points_have_their_shares(sampler):
    samples = drawn(sampler, process(100).levels, two_points())
    assert (jnp.abs(jnp.abs(samples) - 1) < 0.1).mean() > 0.98
    np.testing.assert_allclose((samples > 0).mean(), 0.25, atol=0.025)


def test_a_learned_variance_runs_from_the_small_to_the_large_one():
    def constant(value):
        return lambda x, level: gaussian()(x, level)._replace(variance=jnp.full(x.shape, value))

    learned, levels = Ddpm("learned_range"), process(10).levels
    np.testing.assert_allclose(drawn(learned, levels, constant(-1.0)), drawn(Ddpm("fixed_small"), levels), atol=1e-5)
    np.testing.assert_allclose(drawn(learned, levels, constant(1.0)), drawn(Ddpm("fixed_large"), levels), atol=1e-5)
    with pytest.raises(ValueError, match="expected a network with a learned variance"):
        drawn(learned, levels)


def test_ddim_of_eta_1_is_ddpm_with_the_small_variance():
    levels = process(10).levels
    np.testing.assert_allclose(drawn(Ddim(1.0), levels), drawn(Ddpm("fixed_small"), levels), atol=1e-5)


def test_the_analytic_variance_gives_the_deviation_in_few_steps():
    levels = process(10).levels
    data = MEAN + DEVIATION * jax.random.normal(jax.random.key(5), X.shape)
    moments = noise_moments(gaussian(), levels, data, KEYS, NOISE)
    variance = levels.alphas[:-1] ** 2 * DEVIATION**2 + levels.sigmas[:-1] ** 2
    np.testing.assert_allclose(moments, levels.sigmas[:-1] ** 2 / variance, rtol=0.05)
    for eta in (0.0, 1.0):
        np.testing.assert_allclose(drawn(AnalyticDpm(tuple(moments.tolist()), eta), levels).std(), DEVIATION, atol=0.01)
    assert abs(drawn(Ddpm("fixed_small"), levels).std() - DEVIATION) > 0.1
    with pytest.raises(ValueError, match="expected one for each of 10 steps, got 1"):
        drawn(AnalyticDpm((1.0,)), levels)


def by_log_snr(steps, first=-7.0, last=1.0):
    half = np.linspace(first, last, steps + 1)
    return Levels(np.zeros(steps), 1 / np.sqrt(1 + np.exp(-2 * half)), 1 / np.sqrt(1 + np.exp(2 * half)))


@pytest.mark.parametrize("order", [1, 2, 3])
def test_dpm_solver_converges_with_its_order(order):
    errors = []
    for steps in (40, 80):
        levels = by_log_snr(steps)
        errors.append(
            np.abs(drawn(DpmSolver(order), levels, x=X[:64], noise=KeyedNoise(KEYS[:64])) - exact(X[:64], levels)).max()
        )
    assert order - 0.4 < np.log2(errors[0] / errors[1]) < order + 0.8, errors


@pytest.mark.parametrize(("sampler", "order"), [(Euler(), 1), (Heun(), 2), (Ddim(), 1)], ids=str)
def test_flow_samplers_converge_with_their_order(sampler, order):
    form, errors = Parameterization("velocity"), []
    for steps in (32, 64):
        levels = RectifiedFlow().levels(steps)
        errors.append(np.abs(drawn(sampler, levels, form=form) - exact(X, levels)).max())
    np.testing.assert_allclose(np.log2(errors[0] / errors[1]), order, atol=0.15)


def test_first_order_samplers_are_one_method_on_a_flow():
    levels, form = RectifiedFlow().levels(8, shift=3.0), Parameterization("velocity")
    expected = drawn(Euler(), levels, form=form)
    for sampler in (Ddim(), DpmSolver(1)):
        np.testing.assert_allclose(drawn(sampler, levels, form=form), expected, atol=2e-5)
    with pytest.raises(ValueError, match="expected alpha \\+ sigma = 1"):
        drawn(Euler(), process(5).levels)


@pytest.mark.parametrize("path", [CosinePath(), VariancePath()], ids=str)
def test_paths_of_continuous_time_are_sampled_too(path):
    form = Parameterization("v")
    levels = path.levels(400)
    np.testing.assert_allclose(drawn(DpmSolver(2), levels, form=form), exact(X, levels), atol=0.02)
    level = path.level(jnp.asarray(levels.times, jnp.float32))
    np.testing.assert_allclose(level.alpha, levels.alphas[:-1], atol=1e-6)
    np.testing.assert_allclose(level.sigma, levels.sigmas[:-1], atol=1e-6)


@pytest.mark.parametrize(("refinements", "bound"), [(0, 0.05), (1, 2e-3), (4, 2e-5)])
def test_an_inverted_image_is_sampled_again_within_a_bound(refinements, bound):
    levels, image = process(50).levels, MEAN + DEVIATION * X[:64]
    noise = jax.jit(lambda x: invert(gaussian(), levels, x, NOISE, refinements))(image)
    again = drawn(Ddim(), levels, x=noise, noise=KeyedNoise(KEYS[:64]))
    error = float(jnp.abs(again - image).max())
    assert error < bound
    if refinements == 4:
        np.testing.assert_allclose(noise.std(), 1, atol=0.15)


@pytest.mark.parametrize(
    ("sampler", "forwards"),
    [
        (Ddpm("fixed_small"), 7),
        (Ddim(), 7),
        (DpmSolver(3), 7),
        (AnalyticDpm((1.0,) * 7), 7),
        (Euler(), 7),
        (Heun(), 13),
    ],
    ids=str,
)
def test_a_sampler_costs_its_steps_times_one_forward(sampler, forwards):
    calls = []

    def counting(x, level):
        jax.debug.callback(lambda time: calls.append(time), level.time[0])
        return gaussian("velocity")(x, level)

    levels = RectifiedFlow().levels(7, first=0.9)
    drawn(sampler, levels, counting, Parameterization("velocity"), X[:2], KeyedNoise(KEYS[:2])).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == forwards


def test_an_inversion_costs_its_steps_times_one_forward_and_its_refinements():
    calls = []

    def counting(x, level):
        jax.debug.callback(lambda time: calls.append(time), level.time[0])
        return gaussian()(x, level)

    jax.jit(lambda x: invert(counting, process(6).levels, x, NOISE, 2))(X[:2]).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == 6 * 3


@pytest.mark.parametrize("sampler", [Ddpm("fixed_large"), Ddim(0.7)], ids=str)
def test_an_image_depends_on_its_key_and_not_on_its_batch(sampler):
    levels, rows = process(5).levels, np.array([5, 2])
    batch = drawn(sampler, levels, x=X[:8], noise=KeyedNoise(KEYS[:8]))
    alone = drawn(sampler, levels, x=initial_noise(KEYS[rows], (4,)), noise=KeyedNoise(KEYS[rows]))
    np.testing.assert_allclose(alone, batch[rows], atol=1e-6)
    other = drawn(sampler, levels, x=X[:8], noise=KeyedNoise(KEYS[8:16]))
    assert jnp.abs(other - batch).min() > 1e-6


def test_recorded_noise_is_used_step_by_step():
    sampler, levels = Ddpm("fixed_small"), process(5).levels
    keyed = KeyedNoise(KEYS[:3])
    values = jnp.stack([keyed.at(jnp.int32(step), X[:3]) for step in range(5)])
    np.testing.assert_allclose(
        drawn(sampler, levels, x=X[:3], noise=RecordedNoise(values)),
        drawn(sampler, levels, x=X[:3], noise=keyed),
        atol=1e-6,
    )


def test_temperature_scales_the_noise_and_0_follows_the_mean():
    levels = process(100).levels
    cold = drawn(Ddpm("fixed_small"), levels, x=0 * X, noise=KeyedNoise(KEYS, 0.0))
    assert cold.std() < 1e-5
    half = drawn(Ddpm("fixed_small"), levels, x=X / 2, noise=KeyedNoise(KEYS, 0.5))
    np.testing.assert_allclose(half.std(), DEVIATION / 2, atol=0.02)


def test_a_clipped_estimate_keeps_the_result_within_the_limit():
    def far(x, level):
        return ModelOutput(jnp.full_like(x, 3.0))

    for sampler in (Ddpm("fixed_small"), Ddim(), DpmSolver(2)):
        samples = drawn(
            sampler, process(8).levels, far, Parameterization("x0", ClipX0(0.5)), X[:4], KeyedNoise(KEYS[:4])
        )
        np.testing.assert_allclose(samples, 0.5, atol=1e-6)
