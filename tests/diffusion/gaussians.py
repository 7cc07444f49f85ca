"""Data whose optimal denoiser is known: a Gaussian, and a mixture of two points."""

import jax
import jax.numpy as jnp

from dalle_jax.diffusion.levels import NoiseLevel, per_row
from dalle_jax.diffusion.parameterization import Denoiser, Estimate, ModelOutput, Prediction, from_estimate

MEAN, DEVIATION = 0.6, 0.5


def gaussian(prediction: Prediction = "noise", mean: float = MEAN, deviation: float = DEVIATION) -> Denoiser:
    """E[x0 | x] for x0 ~ N(mean, deviation^2), as the given prediction."""

    def denoise(x: jax.Array, level: NoiseLevel) -> ModelOutput:
        alpha, sigma = per_row(level.alpha, x), per_row(level.sigma, x)
        variance = alpha**2 * deviation**2 + sigma**2
        off = x - alpha * mean
        estimate = Estimate(mean + alpha * deviation**2 / variance * off, sigma / variance * off)
        return ModelOutput(from_estimate(estimate, prediction, level))

    return denoise


def two_points(prediction: Prediction = "noise", share: float = 0.25) -> Denoiser:
    """E[x0 | x] for x0 = 1 with probability ``share``, else -1."""

    def denoise(x: jax.Array, level: NoiseLevel) -> ModelOutput:
        alpha, sigma = per_row(level.alpha, x), per_row(level.sigma, x)
        x0 = jnp.tanh(alpha * x / sigma**2 + 0.5 * jnp.log(share / (1 - share)))
        return ModelOutput(from_estimate(Estimate(x0, (x - alpha * x0) / sigma), prediction, level))

    return denoise
