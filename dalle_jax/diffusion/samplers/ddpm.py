"""Ancestral sampling (Ho et al. 2020, arXiv 2006.11239, algorithm 2), with fixed or learned variances."""

from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.levels import Levels, Posterior, posterior
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput, Parameterization
from dalle_jax.diffusion.samplers.sampler import StepInfo, StepNoise, scan_steps

ReverseVariance: TypeAlias = Literal["fixed_small", "fixed_large", "learned_range"]


class ReverseStep(NamedTuple):
    """p(x_{t-1} | x_t) = N(mean, exp(log_variance)), with the x0 that it is computed from."""

    mean: Float[Array, " B *shape"]
    log_variance: Float[Array, "..."]
    x0: Float[Array, " B *shape"]


@dataclass(frozen=True)
class Ddpm:
    """Ancestral sampling: x_{t-1} ~ N(posterior mean of the estimated x0, variance).

    ``fixed_small`` is the posterior variance beta tilde and ``fixed_large`` is beta (arXiv 2006.11239, section 3.2).
    ``learned_range`` interpolates their logarithms by the network's second output (arXiv 2102.09672, equation 15).
    """

    variance: ReverseVariance

    def sample(
        self,
        denoise: Denoiser,
        levels: Levels,
        x: Float[Array, " B *shape"],
        noise: StepNoise,
        parameterization: Parameterization,
    ) -> Float[Array, " B *shape"]:
        """Sample in steps × one forward."""

        def step(x: Array, info: StepInfo) -> Array:
            reverse = self.reverse(denoise(x, info.level), x, info, parameterization)
            drawn = jnp.exp(0.5 * reverse.log_variance) * noise.at(info.number, x)
            return reverse.mean + info.coefficients[-1] * drawn

        return scan_steps(step, x.astype(jnp.float32), x.shape[0], levels, self.coefficients(levels))

    def reverse(
        self, output: ModelOutput, x: Float[Array, " B *shape"], info: StepInfo, parameterization: Parameterization
    ) -> ReverseStep:
        """Return the distribution of one step, whose ``info`` has the coefficients of this sampler."""
        of_x0, of_x, small, large, _ = info.coefficients
        x0 = parameterization.estimate(output, x, info.level).x0
        mean = of_x0 * x0 + of_x * x
        if self.variance != "learned_range":
            return ReverseStep(mean, small if self.variance == "fixed_small" else large, x0)
        if output.variance is None:
            raise ValueError("variance: expected a network with a learned variance, got only a prediction")
        return ReverseStep(mean, learned_log_variance(output.variance, small, large), x0)

    def coefficients(self, levels: Levels) -> tuple[np.ndarray, ...]:
        """Return weights of x0 and x, log variances beta tilde and beta, and 0 for a step to data, else 1."""
        found = posterior(levels)
        large = log_beta(found) if self.variance == "learned_range" else log_fixed_large(found)
        return found.of_x0, found.of_x, found.log_variance, large, (levels.sigmas[1:] > 0).astype(np.float64)


def learned_log_variance(
    variance: Float[Array, " B *shape"], small: Float[Array, "..."], large: Float[Array, "..."]
) -> Float[Array, " B *shape"]:
    """Interpolate from ``small`` at -1 to ``large`` at 1 (arXiv 2102.09672, equation 15)."""
    share = (variance.astype(jnp.float32) + 1) / 2
    return share * large + (1 - share) * small


def log_beta(found: Posterior) -> Float[np.ndarray, " steps"]:
    """Return the largest log variance of the learned range."""
    return np.log(found.beta)


def log_fixed_large(found: Posterior) -> Float[np.ndarray, " steps"]:
    """Return log beta, where the step to data has the posterior variance of the step before (guided-diffusion)."""
    large = np.log(found.beta)
    if found.variance[-1] == 0:
        large[-1] = found.log_variance[-1]
    return large
