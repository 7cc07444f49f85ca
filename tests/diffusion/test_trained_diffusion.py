"""The diffusion of a network's config: levels of training and sampling agree, and samples have the data's moments."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.continuous import CosinePath, RectifiedFlow, VariancePath
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise, LinearNoise
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.trained_diffusion import TIME_SCALE, ImageSampling, TrainedDiffusion, from_pixels, to_pixels
from tests.diffusion.gaussians import DEVIATION, MEAN, gaussian

KEYS = jax.random.split(jax.random.key(0), 2000)
DIFFUSIONS = (
    TrainedDiffusion(CosineNoise(100), "noise"),
    TrainedDiffusion(LinearNoise(100), "v"),
    TrainedDiffusion(RectifiedFlow(), "velocity"),
    TrainedDiffusion(CosinePath(), "v"),
    TrainedDiffusion(VariancePath(), "x0"),
)


def named(diffusion: TrainedDiffusion) -> str:
    return type(diffusion.process).__name__


@pytest.mark.parametrize("diffusion", DIFFUSIONS, ids=named)
def test_the_levels_of_a_sampler_are_levels_of_training(diffusion):
    """The network is told the same time for the same noise."""
    levels = diffusion.levels(6)
    scale = diffusion.discrete().steps if diffusion.is_discrete else TIME_SCALE
    # The middle of a timestep, so that rounding does not change it.
    times = (levels.times + (0.5 if diffusion.is_discrete else 0.0)) / scale
    found = diffusion.level(jnp.asarray(times, jnp.float32))
    np.testing.assert_allclose(found.time, levels.times.clip(0.1 if not diffusion.is_discrete else 0, None), rtol=1e-3)
    np.testing.assert_allclose(found.alpha, levels.alphas[:-1], atol=2e-2)
    np.testing.assert_allclose(found.sigma, levels.sigmas[:-1], atol=2e-2)
    assert levels.sigmas[-1] == 0


@pytest.mark.parametrize("diffusion", DIFFUSIONS, ids=named)
def test_samples_of_a_gaussian_have_its_mean_and_deviation(diffusion):
    sampling = ImageSampling(DpmSolver(), steps=30, threshold=None)
    x = sampling.sample(gaussian(diffusion.prediction), diffusion, KEYS, (4,))
    np.testing.assert_allclose((x.mean(), x.std()), (MEAN, DEVIATION), atol=0.05)  # 30 steps


@pytest.mark.parametrize("sampler", [Ddpm("fixed_small"), Ddim(0.5)])
def test_a_sample_depends_on_its_key_alone(sampler):
    sampling, diffusion = ImageSampling(sampler, steps=3), DIFFUSIONS[0]
    x = sampling.sample(gaussian(), diffusion, KEYS[:5], (4,))
    np.testing.assert_allclose(sampling.sample(gaussian(), diffusion, KEYS[3:5], (4,)), x[3:], atol=1e-6)
    assert np.abs(x).max() <= 1.0  # the threshold of the default


def test_pixels_and_values_of_the_network_are_inverse():
    pixels = jax.random.uniform(jax.random.key(0), (1, 2, 2, 3))
    np.testing.assert_allclose(to_pixels(from_pixels(pixels)), pixels, atol=1e-6)
    assert float(to_pixels(jnp.full((1, 1, 1, 3), 1.5)).max()) == 1.0


def test_the_noised_data_of_a_time_have_the_signal_of_the_process():
    level = DIFFUSIONS[2].level(jnp.array([0.25]))
    x = add_noise(jnp.ones((1, 1)), jnp.zeros((1, 1)), level)
    np.testing.assert_allclose(x, 0.75, atol=1e-6)
    np.testing.assert_allclose(level.time, 250.0, rtol=1e-5)


def test_one_step_is_too_few():
    with pytest.raises(ValueError, match="steps: expected at least 2, got 1"):
        ImageSampling(steps=1)
