"""DDIM and its inversion (Song et al. 2020, arXiv 2010.02502)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.levels import Levels
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.sampler import StepInfo, StepNoise, scan_steps


@dataclass(frozen=True)
class Ddim:
    """x' = alpha' x0 + sqrt(sigma'^2 - s^2) noise + s z (arXiv 2010.02502, equation 12).

    s = eta sigma' / sigma sqrt(1 - alpha^2 / alpha'^2), equation 16. ``eta`` 0 is deterministic. 1 has the variance
    of DDPM's ``fixed_small``. On the levels of a flow, eta 0 is Euler's method.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise ValueError(f"eta: expected between 0 and 1, got {self.eta}")

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
            moved = of_x0 * found.x0 + of_noise * found.noise
            return moved + of_new * noise.at(info.number, x) if self.eta else moved

        return scan_steps(step, x.astype(jnp.float32), x.shape[0], levels, self.coefficients(levels))

    def coefficients(self, levels: Levels) -> tuple[np.ndarray, ...]:
        """Return the weights of x0, of the estimated noise and of new noise."""
        added = self.eta * new_noise(levels)
        return levels.alphas[1:], np.sqrt(np.maximum(levels.sigmas[1:] ** 2 - added**2, 0)), added


def new_noise(levels: Levels) -> Float[np.ndarray, " steps"]:
    """Return s of eta = 1 for each step: the standard deviation of the posterior (arXiv 2010.02502, equation 16)."""
    ratio = levels.alphas[:-1] / levels.alphas[1:]
    beta = levels.sigmas[:-1] ** 2 - ratio**2 * levels.sigmas[1:] ** 2
    return levels.sigmas[1:] / levels.sigmas[:-1] * np.sqrt(np.maximum(beta, 0))


def invert(
    denoise: Denoiser,
    levels: Levels,
    x0: Float[Array, " B *shape"],
    parameterization: Parameterization,
    refinements: int = 0,
) -> Float[Array, " B *shape"]:
    """Return the x of the first level from which ``Ddim(eta=0)`` gives ``x0`` (arXiv 2010.02502, section 4.3).

    A step back to level i needs the network at level i, whose x is unknown. The network is evaluated at the known x of
    level i + 1, then ``refinements`` times at the result: a fixed-point iteration (Pan et al. 2023, arXiv 2309.04907).
    The cost is steps × (1 + refinements) forwards. DALL·E 2's variations start from this x (arXiv 2204.06125,
    section 3.1).
    """
    noisier = Levels(levels.times[::-1], np.append(levels.alphas[-2::-1], 1.0), np.append(levels.sigmas[-2::-1], 0.0))

    def step(known: Array, info: StepInfo) -> Array:
        of_known, of_x0, of_noise = info.coefficients

        def refine(_: Array, guess: Array) -> Array:
            found = parameterization.estimate(denoise(guess, info.level), guess, info.level)
            return of_known * known + of_x0 * found.x0 + of_noise * found.noise

        return jax.lax.fori_loop(0, 1 + refinements, refine, known)

    return scan_steps(step, x0.astype(jnp.float32), x0.shape[0], noisier, _inversion(levels))


def _inversion(levels: Levels) -> tuple[np.ndarray, ...]:
    """Return the weights of the known x, of x0 and of the noise, for each step from data to noise.

    x_i = alpha_i x0 + sigma_i noise, and the known x_k = alpha_k x0 + sigma_k noise. x0 is eliminated at low noise, and
    the noise at high noise. The step then depends least on the network's output, so the iteration converges fast.
    """
    alpha, sigma = levels.alphas[-2::-1], levels.sigmas[-2::-1]
    known_alpha, known_sigma = levels.alphas[:0:-1], levels.sigmas[:0:-1]
    low = sigma * known_sigma < alpha * known_alpha
    kept, other = np.where(low, known_alpha, known_sigma), np.where(low, known_sigma, known_alpha)
    of_known = np.where(low, alpha, sigma) / kept
    rest = np.where(low, sigma, alpha) - of_known * other
    return of_known, np.where(low, 0.0, rest), np.where(low, rest, 0.0)
