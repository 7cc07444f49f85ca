"""DPM-Solver++, multistep, of orders 1 to 3 (Lu et al. 2022, arXiv 2211.01095)."""

import math
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.levels import Levels
from dalle_jax.diffusion.parameterization import Denoiser, Parameterization
from dalle_jax.diffusion.samplers.sampler import StepInfo, StepNoise, scan_steps


@dataclass(frozen=True)
class DpmSolver:
    """DPM-Solver++ in the data prediction; order 2 is called 2M (arXiv 2211.01095, algorithm 2).

    A step is linear in x and in the last ``order`` estimates of x0, so its weights are computed ahead, in float64. The
    first steps have fewer estimates and a lower order. A step to sigma = 0 has order 1.
    """

    order: int = 2

    def __post_init__(self) -> None:
        if self.order not in (1, 2, 3):
            raise ValueError(f"order: expected 1, 2 or 3, got {self.order}")

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

        def step(carry: tuple[Array, ...], info: StepInfo) -> tuple[Array, ...]:
            x, *older = carry
            of_x, of_estimates = info.coefficients
            newest = parameterization.estimate(denoise(x, info.level), x, info.level).x0
            estimates = (newest, *older)
            moved = of_x * x + sum(of_estimates[i] * one for i, one in enumerate(estimates))
            return (moved, *estimates[:-1])

        x = x.astype(jnp.float32)
        start = (x, *(jnp.zeros_like(x) for _ in range(self.order - 1)))
        return scan_steps(step, start, x.shape[0], levels, self.coefficients(levels))[0]

    def coefficients(self, levels: Levels) -> tuple[np.ndarray, ...]:
        """Return the weight of x [steps], and of the estimates of x0 [steps order], newest first."""
        of_x = levels.sigmas[1:] / levels.sigmas[:-1]
        rows = [_of_estimates(levels, step, self.order) for step in range(levels.steps)]
        return of_x, np.array(rows).reshape(levels.steps, self.order)


def _half_log_snr(levels: Levels, i: int) -> float:
    """Return lambda = log(alpha / sigma) of a level, which is infinite at pure noise or pure data."""
    alpha, sigma = float(levels.alphas[i]), float(levels.sigmas[i])
    return math.inf if sigma == 0 else -math.inf if alpha == 0 else math.log(alpha / sigma)


def _of_estimates(levels: Levels, step: int, order: int) -> list[float]:
    """Return the weights of x0 at this step and at the steps before it (arXiv 2211.01095, section 4; for order 3,
    the third-order multistep formula of the same expansion).

    With h the step in lambda: x' = sigma' / sigma x + alpha' (1 - e^-h) D0 + phi2 D1 - phi3 D2, where D1 and D2 are the
    first and second divided differences of x0, times powers of h.
    """
    here, there = _half_log_snr(levels, step), _half_log_snr(levels, step + 1)
    alpha = float(levels.alphas[step + 1])
    shrink = float(levels.sigmas[step + 1] * levels.alphas[step] / levels.sigmas[step]) / alpha  # e^-h
    weights = [alpha * (1 - shrink)] + [0.0] * (order - 1)
    past = [_half_log_snr(levels, step - back) for back in range(1, order) if step >= back]
    past = [one for one in past if math.isfinite(one)]
    if not past or not (math.isfinite(here) and math.isfinite(there)):
        return weights
    h = there - here
    r0 = (here - past[0]) / h
    first = np.array([1.0, -1.0, 0.0]) / r0
    phi1 = math.expm1(-h)
    if len(past) == 1:
        found = -alpha * phi1 * (np.array([1.0, 0.0, 0.0]) + 0.5 * first)
    else:
        r1 = (past[0] - past[1]) / h
        before = np.array([0.0, 1.0, -1.0]) / r1
        slope = first + r0 / (r0 + r1) * (first - before)
        curve = (first - before) / (r0 + r1)
        phi2, phi3 = phi1 / h + 1, (phi1 + h) / h**2 - 0.5
        found = alpha * (-phi1 * np.array([1.0, 0.0, 0.0]) + phi2 * slope - phi3 * curve)
    return [float(one) for one in found[:order]]
