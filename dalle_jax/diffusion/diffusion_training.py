"""The training of a diffusion or flow model: the drawn noise levels, and the loss of each row."""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.diffusion.continuous import TrainingTimes, UniformTimes, as_timesteps
from dalle_jax.diffusion.importance import LossHistory
from dalle_jax.diffusion.levels import NoiseLevel, add_noise
from dalle_jax.diffusion.loss import HybridLoss, simple_loss
from dalle_jax.diffusion.parameterization import Denoiser
from dalle_jax.diffusion.trained_diffusion import TrainedDiffusion
from dalle_jax.diffusion.weighting import LossWeighting, UniformWeight


@dataclass(frozen=True)
class ImportanceTimes:
    """Timesteps that are drawn by their last ``kept`` losses (arXiv 2102.09672, section 3.3)."""

    kept: int = 10


class DrawnLevels(NamedTuple):
    """The noise level of each row, its timestep if the process has timesteps, and its weight in the mean loss."""

    level: NoiseLevel
    timestep: Int[Array, " B"] | None
    weight: Float[Array, " B"]


@dataclass(frozen=True)
class DiffusionTraining:
    """The loss of a diffusion or flow model, and the times that it is computed at.

    ``vlb`` is the weight of the variational bound for a network that learns a variance (arXiv 2102.09672, equation
    16); other networks have none. Images are -1 .. 1 in 256 values, which the bound's last term reads.
    """

    times: TrainingTimes | ImportanceTimes = field(default_factory=UniformTimes)
    weighting: LossWeighting = field(default_factory=UniformWeight)
    vlb: float = 0.001

    def check(self, diffusion: TrainedDiffusion) -> None:
        """Raise ValueError for importance sampling of a process without timesteps."""
        if isinstance(self.times, ImportanceTimes) and not diffusion.is_discrete:
            kind = type(diffusion.process).__name__
            raise ValueError(f"training.times: expected UniformTimes or LogitNormalTimes for the continuous {kind}")

    def draw(
        self, key: Key[Array, ""], rows: int, diffusion: TrainedDiffusion, history: LossHistory | None
    ) -> DrawnLevels:
        """Draw the level of each row; ``history`` holds the losses that importance sampling reads."""
        if isinstance(self.times, ImportanceTimes):
            if history is None:
                raise ValueError("history: expected the losses of each timestep, got None")
            index, weight = history.draw(key, rows)
            return DrawnLevels(diffusion.discrete().level(index), index, weight)
        return levels_at(diffusion, self.times.draw(jax.random.split(key, rows)))

    def losses(
        self,
        denoise: Denoiser,
        x0: Float[Array, " B *shape"],
        noise: Float[Array, " B *shape"],
        drawn: DrawnLevels,
        diffusion: TrainedDiffusion,
    ) -> Float[Array, " B"]:
        """Compute the loss of each row: L_simple, or L_hybrid for a network that learns a variance."""
        output = denoise(add_noise(x0, noise, drawn.level), drawn.level)
        if output.variance is None or drawn.timestep is None:
            return simple_loss(output, x0, noise, drawn.level, diffusion.prediction, self.weighting)
        hybrid = HybridLoss(vlb=self.vlb, weighting=self.weighting)
        return hybrid(output, x0, noise, drawn.timestep, diffusion.discrete(), diffusion.prediction)


def levels_at(diffusion: TrainedDiffusion, times: Float[Array, " B"]) -> DrawnLevels:
    """Return the levels of times in 0 .. 1, from data to noise, with weight 1."""
    index = as_timesteps(times, diffusion.discrete().steps) if diffusion.is_discrete else None
    return DrawnLevels(diffusion.level(times), index, jnp.ones_like(times))
