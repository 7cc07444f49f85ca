"""A sampler's steps as a policy, with a denoiser of one parameter."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.continuous import RectifiedFlow
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.parameterization import ModelOutput, Parameterization
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.sampler import KeyedNoise
from dalle_jax.diffusion.step_policy import StepPolicy

LEVELS, FORM = RectifiedFlow().levels(5), Parameterization("x0")
KEYS = jax.random.split(jax.random.key(1), 3)
START = initial_noise(KEYS, (2, 4))


def denoiser(scale):
    return lambda x, level: ModelOutput(jnp.tanh(scale * x) * (1 - level.time[:, None, None]))


def test_a_path_is_the_sample_of_ddim_and_its_chosen_steps_follow_each_other():
    policy = StepPolicy(LEVELS, 0.7, FORM)
    assert policy.random_steps.tolist() == [0, 1, 2, 3]  # the step to data draws no noise
    every = jnp.broadcast_to(jnp.arange(5), (3, 5))
    sample = jax.jit(lambda chosen: policy.sample(denoiser(0.6), START, KEYS, chosen))
    path = sample(every)
    expected = jax.jit(lambda x: Ddim(0.7).sample(denoiser(0.6), LEVELS, x, KeyedNoise(KEYS), FORM))(START)
    np.testing.assert_allclose(path.last, expected, rtol=1e-5)
    np.testing.assert_array_equal(path.before[:, 0], START)
    np.testing.assert_array_equal(path.before[:, 1:], path.after[:, :-1])
    np.testing.assert_array_equal(path.after[:, -1], path.last)
    chosen = policy.choose(KEYS, 2)
    assert all(0 <= one < two <= 3 for one, two in chosen.tolist())
    some = sample(chosen)
    np.testing.assert_array_equal(some.before, np.take_along_axis(path.before, chosen[..., None, None], axis=1))


def test_the_log_density_is_that_of_a_gaussian_and_its_gradient_is_the_finite_difference():
    policy = StepPolicy(LEVELS, 1.0, FORM)
    step = jnp.array([0, 1, 3])
    following = START + 0.1

    @jax.jit
    def log_prob(scale):
        return policy.step(denoiser(scale), START, step).log_prob(following)

    found = policy.step(denoiser(0.6), START, step)
    each = jax.scipy.stats.norm.logpdf(following, found.mean, found.deviation[:, None, None])
    np.testing.assert_allclose(log_prob(0.6), each.sum(axis=(1, 2)), rtol=1e-4)
    slope = jax.jacfwd(log_prob)(0.6)
    difference = (log_prob(0.61) - log_prob(0.59)) / 0.02
    np.testing.assert_allclose(slope, difference, rtol=0.02, atol=0.02)


def test_the_kl_is_the_mean_difference_of_log_densities():
    policy = StepPolicy(LEVELS, 1.0, FORM)
    step = jnp.full(2000, 2)
    x = jnp.broadcast_to(START[:1], (2000, 2, 4))
    one, other = (policy.step(denoiser(scale), x, step) for scale in (0.6, 0.9))
    drawn = one.mean + one.deviation[:, None, None] * jax.random.normal(jax.random.key(3), x.shape)
    difference = one.log_prob(drawn) - other.log_prob(drawn)
    spread = float(difference.std()) / 2000**0.5
    assert abs(float(difference.mean()) - float(one.kl(other.mean)[0])) < 4 * spread


def test_a_sampler_without_noise_is_no_policy():
    with pytest.raises(ValueError, match="eta: expected more than 0, so that steps draw noise, got 0"):
        StepPolicy(LEVELS, 0.0, FORM)
