"""The upsampler: its conditions, and sizes that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.diffusion.guidance import ConditionedDenoiser
from dalle_jax.diffusion.trained_diffusion import TrainedDiffusion
from dalle_jax.models.decoders.upsampler import LowResolution, Upsampler, enlarged, low_noise_level, reduced
from tests.small_denoisers import UPSAMPLER, random_module

X = jax.random.normal(jax.random.key(1), (1, 8, 8, 3))
LEVEL = TrainedDiffusion().level(jnp.array([0.5]))
LOW = enlarged(jax.random.normal(jax.random.key(2), (1, 4, 4, 3)), 2)


@pytest.fixture(scope="module")
def upsampler() -> Upsampler:
    return random_module(lambda: dataclasses.replace(UPSAMPLER, sees_noise=True).build(nnx.Rngs(0)))


def test_the_prediction_reads_the_low_resolution_image_and_its_noise(upsampler):
    assert isinstance(upsampler, ConditionedDenoiser)
    found = upsampler(X, LEVEL, LowResolution(LOW, jnp.zeros(1))).prediction
    assert found.shape == X.shape
    for low in (LowResolution(-LOW, jnp.zeros(1)), LowResolution(LOW, jnp.ones(1))):
        assert np.abs(found - upsampler(X, LEVEL, low).prediction).max() > 1e-4


def test_a_network_without_noise_embedding_does_not_read_the_noise():
    plain = random_module(lambda: UPSAMPLER.build(nnx.Rngs(0)))
    np.testing.assert_array_equal(
        plain(X, LEVEL, LowResolution(LOW, jnp.zeros(1))).prediction,
        plain(X, LEVEL, LowResolution(LOW, jnp.ones(1))).prediction,
    )


def test_reducing_an_image_is_the_mean_of_squares_and_undoes_repeating():
    image = jax.random.uniform(jax.random.key(3), (2, 3, 5, 3))
    np.testing.assert_allclose(reduced(image.repeat(4, axis=1).repeat(4, axis=2), 4), image, atol=1e-6)
    np.testing.assert_allclose(reduced(image[:, :2, :4], 2)[:, 0, 1], image[:, :2, 2:4].mean((1, 2)), atol=1e-6)


def test_no_noise_is_added_at_time_0_and_variance_is_preserved():
    level = low_noise_level(jnp.array([0.0, 0.4]))
    np.testing.assert_allclose(level.sigma[0], 0.0, atol=1e-7)
    np.testing.assert_allclose(level.alpha**2 + level.sigma**2, 1.0, atol=1e-6)


def test_an_upsampler_needs_the_channels_of_the_low_resolution_image():
    with pytest.raises(ValueError, match=r"extra_channels, .*expected 3, 0 and 2 or more, got 0, 0 and 4"):
        dataclasses.replace(UPSAMPLER, unet=dataclasses.replace(UPSAMPLER.unet, extra_channels=0), factor=4)
