"""Editing: interpolation on the sphere, known pixels with any sampler, RePaint, partial noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.latent_edit import RePaint, keep_known, paste, slerp, start_from
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.sampler import KeyedNoise
from dalle_jax.diffusion.spacing import SectionSteps
from tests.diffusion.gaussians import DEVIATION, MEAN, gaussian

NOISE = Parameterization("noise")
KEYS = jax.random.split(jax.random.key(0), 512)
X = initial_noise(KEYS, (4,))
KNOWN = MEAN + DEVIATION * jax.random.normal(jax.random.key(1), X.shape)
KEEP = jnp.array([True, False, True, False])


def levels(steps):
    return DiscreteProcess.of(CosineNoise(), SectionSteps((steps,))).levels


def test_slerp_moves_along_the_circle():
    first, second = jnp.array([[1.0, 0.0], [2.0, 0.0]]), jnp.array([[0.0, 1.0], [0.0, 4.0]])
    found = slerp(first, second, jnp.array([1 / 3, 0.5]))
    np.testing.assert_allclose(found[0], [np.cos(np.pi / 6), np.sin(np.pi / 6)], atol=1e-6)
    np.testing.assert_allclose(found[1], 3 * np.array([1, 1]) / np.sqrt(2), atol=1e-5)
    for share, end in ((0.0, first), (1.0, second)):
        np.testing.assert_allclose(slerp(first, second, jnp.full(2, share)), end, atol=1e-6)


def test_slerp_keeps_the_length_of_noise_and_takes_parallel_vectors():
    first, second = jax.random.normal(jax.random.key(2), (2, 3, 8, 8, 3))
    middle = slerp(first, second, jnp.full(3, 0.5))
    np.testing.assert_allclose(middle.std(), 1, atol=0.06)
    assert ((first + second) / 2).std() < 0.8
    np.testing.assert_allclose(slerp(first, first, jnp.full(3, 0.3)), first, atol=1e-5)


@pytest.mark.parametrize("sampler", [Ddpm("fixed_small"), Ddim(), DpmSolver(2)], ids=str)
def test_known_pixels_stay_and_the_rest_is_sampled(sampler):
    denoise = keep_known(gaussian(), KNOWN, KEEP, "noise")
    run = jax.jit(lambda x: sampler.sample(denoise, levels(100), x, KeyedNoise(KEYS), NOISE))
    out = run(X)
    np.testing.assert_allclose(out[:, KEEP], KNOWN[:, KEEP], atol=1e-4)
    free = out[:, ~KEEP]
    np.testing.assert_allclose([free.mean(), free.std()], [MEAN, DEVIATION], atol=0.05)
    exact = paste(out, KNOWN, KEEP)
    np.testing.assert_array_equal(exact[:, KEEP], KNOWN[:, KEEP])
    np.testing.assert_array_equal(exact[:, ~KEEP], free)


def pair(x, level):
    """E[noise | x] for data whose values 0, 1 and 2, 3 are equal pairs: the mean of a pair has half of the noise."""
    mean = jnp.repeat(x.reshape(-1, 2, 2).mean(-1), 2, axis=-1)
    narrow = level._replace(sigma=level.sigma / jnp.sqrt(2.0))
    alpha, sigma = level.alpha[:, None], level.sigma[:, None]
    halved = gaussian("x0")(mean, narrow).prediction
    return gaussian()(x, level)._replace(prediction=(x - alpha * halved) / sigma)


def test_repaint_makes_the_unknown_pixels_agree_with_the_known():
    errors = []
    for resamplings in (1, 8):
        sampler = RePaint("fixed_small", resamplings)
        out = jax.jit(lambda x, s=sampler: s.sample(pair, levels(30), x, KEYS, KNOWN, KEEP, NOISE))(X)
        np.testing.assert_array_equal(out[:, KEEP], KNOWN[:, KEEP])
        errors.append(float(jnp.abs(out[:, ~KEEP] - KNOWN[:, KEEP]).mean()))
    assert errors[1] < 0.5 * errors[0], errors
    with pytest.raises(ValueError, match="resamplings: expected at least 1, got 0"):
        RePaint("fixed_small", 0).sample(pair, levels(3), X, KEYS, KNOWN, KEEP, NOISE)


def test_repaint_costs_its_steps_times_its_resamplings():
    calls = []

    def counting(x, level):
        jax.debug.callback(lambda: calls.append(1))
        return gaussian()(x, level)

    RePaint("fixed_small", 3).sample(counting, levels(5), X, KEYS, KNOWN, KEEP, NOISE).block_until_ready()
    jax.effects_barrier()
    assert len(calls) == 15


def test_a_partly_noised_image_stays_near_itself():
    distances = []
    for step in (0, 60, 90):
        x, rest = start_from(KNOWN, levels(100), step, KEYS)
        assert rest.steps == 100 - step
        out = jax.jit(lambda x, rest=rest: Ddim().sample(gaussian(), rest, x, KeyedNoise(KEYS), NOISE))(x)
        distances.append(float(jnp.abs(out - KNOWN).mean()))
    assert distances[2] < 0.3 * distances[0] and distances[2] < distances[1] < distances[0]
