"""Weights of the loss by noise level: a closed union of small dataclasses.

``weight(level, prediction)`` returns the weight of the squared error of the network's own prediction, for each row.
Publications weight the error of the noise; ``_of_prediction`` converts that.
"""

from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import Prediction


@dataclass(frozen=True)
class UniformWeight:
    """1 for the error of the network's own prediction (arXiv 2006.11239, equation 14, for noise)."""

    def weight(self, level: NoiseLevel, prediction: Prediction) -> Float[Array, " B"]:
        """Return the weight of each row."""
        del prediction
        return jnp.ones_like(level.time)


@dataclass(frozen=True)
class MinSnr:
    """min(SNR, gamma) for the error of x0 (Hang et al. 2023, arXiv 2303.09556, section 3.4)."""

    gamma: float = 5.0

    def weight(self, level: NoiseLevel, prediction: Prediction) -> Float[Array, " B"]:
        """Return the weight of each row."""
        return _of_prediction(jnp.minimum(1.0, self.gamma / level.snr), level, prediction)


@dataclass(frozen=True)
class P2Weight:
    """(k + SNR)^-gamma for the error of the noise: P2 weighting (Choi et al. 2022, arXiv 2204.00227)."""

    gamma: float = 1.0
    k: float = 1.0

    def weight(self, level: NoiseLevel, prediction: Prediction) -> Float[Array, " B"]:
        """Return the weight of each row."""
        return _of_prediction((self.k + level.snr) ** -self.gamma, level, prediction)


@dataclass(frozen=True)
class SigmoidWeight:
    """sigmoid(bias - log SNR) for the error of the noise (Kingma and Gao 2023, arXiv 2303.00848).

    SiD2 (Hoogeboom et al. 2024, arXiv 2410.19324) takes a higher ``bias`` for latents and a lower one for large images.
    Kingma and Gao divide it by the density of log SNR in training. Here the training times multiply it.
    """

    bias: float = 0.0

    def weight(self, level: NoiseLevel, prediction: Prediction) -> Float[Array, " B"]:
        """Return the weight of each row."""
        return _of_prediction(jax.nn.sigmoid(self.bias - jnp.log(level.snr)), level, prediction)


@dataclass(frozen=True)
class VelocityWeight:
    """1 for the error of the velocity, whatever the network predicts (Li and He 2025, arXiv 2511.13720, table 1).

    JiT predicts x0 (algorithm 1). Error of velocity = (alpha + sigma) / sigma × error of x0, where sigma in the
    denominator is at least ``least_sigma``, as in JiT's code.
    """

    least_sigma: float = 0.05

    def weight(self, level: NoiseLevel, prediction: Prediction) -> Float[Array, " B"]:
        """Return the weight of each row."""
        alpha, sigma = level.alpha, level.sigma
        of_x0 = {
            "noise": sigma / jnp.maximum(alpha, 1e-6),
            "x0": jnp.ones_like(alpha),
            "v": sigma / (alpha**2 + sigma**2),
            "velocity": sigma / (alpha + sigma),
        }[prediction]
        return jnp.square((alpha + sigma) / jnp.maximum(sigma, self.least_sigma) * of_x0)


LossWeighting: TypeAlias = UniformWeight | MinSnr | P2Weight | SigmoidWeight | VelocityWeight


def _of_prediction(of_noise: Array, level: NoiseLevel, prediction: Prediction) -> Array:
    """Convert a weight of the noise's error: at a given x, error of noise = factor × error of prediction."""
    alpha, sigma = level.alpha, level.sigma
    factor = {
        "noise": jnp.ones_like(alpha),
        "x0": alpha / sigma,
        "v": alpha / (alpha**2 + sigma**2),
        "velocity": alpha / (alpha + sigma),
    }[prediction]
    return of_noise * factor**2
