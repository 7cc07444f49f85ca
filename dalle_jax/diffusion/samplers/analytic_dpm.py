"""Analytic-DPM: the optimal reverse variance, estimated once for a network (Bao et al. 2022, arXiv 2201.06503)."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.levels import Levels, add_noise, initial_noise
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.ddim import Ddim, new_noise
from dalle_jax.diffusion.samplers.sampler import StepInfo, StepNoise, scan_steps


@dataclass(frozen=True)
class AnalyticDpm:
    """DDIM's mean with the optimal variance (arXiv 2201.06503, theorem 1).

    ``moments`` has the mean of noise^2 of the network's noise prediction at each step: ``noise_moments``. ``eta`` 1 is
    DDPM's reverse process, and 0 is DDIM's. Data lie within ``half_range`` of the middle of their range: 1 for pixels
    from -1 to 1. It bounds the variance where the estimate is too coarse (theorem 2, for bounded data). DALL·E 2's
    prior takes 64 steps (arXiv 2204.06125, appendix C).
    """

    moments: tuple[float, ...]
    eta: float = 1.0
    half_range: float = 1.0

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
            of_x0, of_noise, of_new = info.coefficients
            found = parameterization.estimate(denoise(x, info.level), x, info.level)
            return of_x0 * found.x0 + of_noise * found.noise + of_new * noise.at(info.number, x)

        return scan_steps(step, x.astype(jnp.float32), x.shape[0], levels, self.coefficients(levels))

    def coefficients(self, levels: Levels) -> tuple[np.ndarray, ...]:
        """Return the weights of x0, of the estimated noise and of new noise, which is 0 in a step to data."""
        if len(self.moments) != levels.steps:
            raise ValueError(f"moments: expected one for each of {levels.steps} steps, got {len(self.moments)}")
        of_x0, of_noise, _ = Ddim(self.eta).coefficients(levels)
        spread = levels.sigmas[:-1] * levels.alphas[1:] / levels.alphas[:-1] - of_noise
        unexplained = np.clip(1 - np.array(self.moments), 0, 1)
        bound = of_x0 - of_noise * levels.alphas[:-1] / levels.sigmas[:-1]
        extra = np.minimum(spread**2 * unexplained, (bound * self.half_range) ** 2)
        variance = (self.eta * new_noise(levels)) ** 2 + extra
        return of_x0, of_noise, np.where(levels.sigmas[1:] > 0, np.sqrt(variance), 0.0)


def noise_moments(
    denoise: Denoiser,
    levels: Levels,
    x0: Float[Array, " B *shape"],
    keys: Key[Array, " B"],
    parameterization: Parameterization,
) -> Float[Array, " steps"]:
    """Estimate the mean of noise^2 of the predicted noise at each step, on data.

    That is sigma^2 Gamma, the Monte Carlo estimate after theorem 1 (arXiv 2201.06503). The cost is steps × one forward,
    once for a network and its levels.
    """
    noise = initial_noise(keys, x0.shape[1:])

    def step(found: Array, info: StepInfo) -> Array:
        x = add_noise(x0, noise, info.level)
        estimate = parameterization.estimate(denoise(x, info.level), x, info.level)
        return found.at[info.number].set(jnp.square(estimate.noise).mean())

    return scan_steps(step, jnp.zeros(levels.steps), x0.shape[0], levels, ())
