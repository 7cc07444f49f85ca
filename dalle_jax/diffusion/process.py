"""The discrete diffusion process of DDPM, and its respacing to fewer timesteps (arXiv 2006.11239, 2102.09672)."""

import functools
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.diffusion.levels import Levels, NoiseLevel, Posterior, posterior
from dalle_jax.diffusion.noise_schedules import NoiseSchedule
from dalle_jax.diffusion.spacing import StepSpacing


@dataclass(frozen=True, eq=False)
class DiscreteProcess:
    """Timesteps 0 .. S - 1 with their noise, in float64 numpy.

    ``betas[i]`` is the variance that timestep i adds. ``timesteps[i]`` is its index in the process that the network was
    trained with, which the network is given as the time. Respacing keeps these indices.
    """

    betas: Float[np.ndarray, " steps"]
    timesteps: Int[np.ndarray, " steps"]

    def __post_init__(self) -> None:
        if not ((self.betas > 0) & (self.betas <= 1)).all():
            raise ValueError(f"betas: expected values in (0, 1], got {self.betas.min()} to {self.betas.max()}")

    @classmethod
    def of(cls, schedule: NoiseSchedule, spacing: StepSpacing | None = None) -> "DiscreteProcess":
        """Create the process of a noise schedule, with all timesteps or those of a spacing."""
        betas = schedule.betas()
        process = cls(betas, np.arange(len(betas)))
        return process if spacing is None else process.respaced(spacing)

    def respaced(self, spacing: StepSpacing) -> "DiscreteProcess":
        """Keep some timesteps, with beta = 1 - alpha_bar / previous alpha_bar (arXiv 2102.09672, equation 19)."""
        kept = spacing.timesteps(self.steps)
        bars = self.alpha_bars[kept]
        return DiscreteProcess(1 - bars / np.append(1.0, bars[:-1]), self.timesteps[kept])

    @property
    def steps(self) -> int:
        """The number of timesteps, S."""
        return len(self.betas)

    @functools.cached_property
    def alpha_bars(self) -> Float[np.ndarray, " steps"]:
        """The share of the data's variance in x_t: the product of 1 - beta up to t (arXiv 2006.11239, equation 4)."""
        return np.cumprod(1 - self.betas)

    @functools.cached_property
    def levels(self) -> Levels:
        """The levels of a sampler: timestep S - 1 first, then down to 0, then the data."""
        bars = np.append(self.alpha_bars[::-1], 1.0)
        return Levels(self.timesteps[::-1].astype(np.float64), np.sqrt(bars), np.sqrt(1 - bars))

    @functools.cached_property
    def posterior(self) -> Posterior:
        """q(x_{t-1} | x_t, x0) by timestep, ascending, unlike ``posterior(levels)`` (arXiv 2006.11239, equation 7)."""
        return Posterior(*(values[::-1] for values in posterior(self.levels)))

    def level(self, index: Int[Array, " B"]) -> NoiseLevel:
        """Return the level of each row, from its timestep 0 .. S - 1 of this process."""
        bars = self.alpha_bars
        tables = (self.timesteps, np.sqrt(bars), np.sqrt(1 - bars))
        return NoiseLevel(*(jnp.asarray(table, jnp.float32)[index] for table in tables))
