"""Noise schedules of discrete diffusion processes: a closed union of small dataclasses, in float64.

``betas()`` returns beta_t, t = 0 .. steps - 1, of q(x_t | x_{t-1}) = N(sqrt(1 - beta_t) x_{t-1}, beta_t I)
(Ho et al. 2020, arXiv 2006.11239, equation 2). The schedules of published models:

    DALL·E 2 prior, decoder, 64 to 256; GLIDE base; Karlo     CosineNoise(1000)
    DALL·E 2 256 to 1024; GLIDE upsampler                     LinearNoise(1000)
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dalle_jax.arrays import Float


@dataclass(frozen=True)
class CosineNoise:
    """alpha_bar(t) = cos((t + 0.008) / 1.008 * pi / 2)^2 (Nichol and Dhariwal 2021, arXiv 2102.09672, equation 17).

    The published definition divides by alpha_bar(0), which cancels in the ratios that define beta.
    """

    steps: int = 1000
    max_beta: float = 0.999

    def betas(self) -> Float[np.ndarray, " steps"]:
        """Return beta of each timestep."""
        return _betas(lambda t: np.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2, self.steps, self.max_beta)


@dataclass(frozen=True)
class LinearNoise:
    """beta from ``first`` to ``last`` in equal steps, both times 1000 / steps (arXiv 2006.11239, section 4).

    The factor keeps the noise of the last timestep equal for any number of steps, as in guided-diffusion.
    """

    steps: int = 1000
    first: float = 1e-4
    last: float = 0.02
    max_beta: float = 0.999

    def betas(self) -> Float[np.ndarray, " steps"]:
        """Return beta of each timestep."""
        scale = 1000 / _at_least_one(self.steps)
        return np.minimum(np.linspace(scale * self.first, scale * self.last, self.steps), self.max_beta)


@dataclass(frozen=True)
class SigmoidNoise:
    """alpha_bar from a sigmoid between ``start`` and ``end`` (Jabri et al. 2022, arXiv 2212.11972, figure 8).

    A larger ``temperature`` gives a straighter curve. Values are rescaled to alpha_bar(0) = 1 and alpha_bar(1) = 0.
    """

    steps: int = 1000
    start: float = -3.0
    end: float = 3.0
    temperature: float = 1.0
    max_beta: float = 0.999

    def betas(self) -> Float[np.ndarray, " steps"]:
        """Return beta of each timestep."""

        def alpha_bar(t: np.ndarray) -> np.ndarray:
            curve = 1 / (1 + np.exp(-(self.start + t * (self.end - self.start)) / self.temperature))
            return (curve[-1] - curve) / (curve[-1] - curve[0])

        return _betas(alpha_bar, self.steps, self.max_beta)


NoiseSchedule: TypeAlias = CosineNoise | LinearNoise | SigmoidNoise


def _betas(alpha_bar: Callable[[np.ndarray], np.ndarray], steps: int, max_beta: float) -> np.ndarray:
    """Return beta_t = 1 - alpha_bar((t + 1) / steps) / alpha_bar(t / steps), at most ``max_beta``."""
    bars = alpha_bar(np.arange(_at_least_one(steps) + 1, dtype=np.float64) / steps)
    return np.minimum(1 - bars[1:] / bars[:-1], max_beta)


def _at_least_one(steps: int) -> int:
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    return steps
