"""Euler's and Heun's methods for dx/dt = velocity on the straight path (Liu et al. 2022, arXiv 2209.03003).

Heun's as in Karras et al. 2022, arXiv 2206.00364, algorithm 1.
"""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.levels import Levels, NoiseLevel
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.sampler import StepInfo, StepNoise, scan_steps


@dataclass(frozen=True)
class Euler:
    """x' = x + (t' - t) velocity(x, t), with order 1."""

    def sample(
        self,
        denoise: Denoiser,
        levels: Levels,
        x: Float[Array, " B *shape"],
        noise: StepNoise,
        parameterization: Parameterization,
    ) -> Float[Array, " B *shape"]:
        """Sample in steps × one forward, without noise."""
        del noise
        velocity = _Velocity(denoise, parameterization)

        def step(x: Array, info: StepInfo) -> Array:
            return x + info.coefficients[0] * velocity(x, info.level)

        return scan_steps(step, x.astype(jnp.float32), x.shape[0], levels, (_differences(levels),))


@dataclass(frozen=True)
class Heun:
    """x' = x + (t' - t) (velocity(x, t) + velocity(Euler's x', t')) / 2, with order 2; the last step is Euler's."""

    def sample(
        self,
        denoise: Denoiser,
        levels: Levels,
        x: Float[Array, " B *shape"],
        noise: StepNoise,
        parameterization: Parameterization,
    ) -> Float[Array, " B *shape"]:
        """Sample in 2 steps - 1 forwards, without noise."""
        velocity = _Velocity(denoise, parameterization)

        def step(x: Array, info: StepInfo) -> Array:
            difference, time, alpha, sigma = info.coefficients
            here = velocity(x, info.level)
            there = NoiseLevel(*(jnp.broadcast_to(one, x.shape[:1]) for one in (time, alpha, sigma)))
            return x + difference * (here + velocity(x + difference * here, there)) / 2

        x = x.astype(jnp.float32)
        if levels.steps > 1:
            before = Levels(levels.times[:-1], levels.alphas[:-1], levels.sigmas[:-1])
            coefficients = _differences(before), levels.times[1:], before.alphas[1:], before.sigmas[1:]
            x = scan_steps(step, x, x.shape[0], before, coefficients)
        return Euler().sample(denoise, levels.after(levels.steps - 1), x, noise, parameterization)


@dataclass(frozen=True)
class _Velocity:
    """The velocity noise - x0 of a denoiser with any prediction."""

    denoise: Denoiser
    parameterization: Parameterization

    def __call__(self, x: Float[Array, " B *shape"], level: NoiseLevel) -> Float[Array, " B *shape"]:
        """Return the velocity of each row."""
        found = self.parameterization.estimate(self.denoise(x, level), x, level)
        return found.noise - found.x0


def _differences(levels: Levels) -> Float[np.ndarray, " steps"]:
    """Return t' - t of each step. Raise ValueError if the levels are not those of a straight path."""
    if not np.allclose(levels.alphas + levels.sigmas, 1):
        raise ValueError("levels: expected alpha + sigma = 1 (RectifiedFlow), got another path; use Ddim or DpmSolver")
    return np.diff(levels.sigmas)
