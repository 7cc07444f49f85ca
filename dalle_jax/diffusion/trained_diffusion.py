"""The diffusion that a network is trained with, as its config holds it, and how it is sampled.

Letters: B batch.
"""

from dataclasses import dataclass, field
from typing import TypeAlias

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.continuous import ContinuousProcess, as_timesteps
from dalle_jax.diffusion.levels import Levels, NoiseLevel, initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise, NoiseSchedule
from dalle_jax.diffusion.parameterization import (
    ClipX0,
    Denoiser,
    ModelOutput,
    Parameterization,
    Prediction,
    X0Threshold,
    split_variance,
)
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddim import Ddim, invert
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.dpm_solver import DpmSolver
from dalle_jax.diffusion.samplers.sampler import KeyedNoise
from dalle_jax.diffusion.spacing import RoundedSteps

AnyProcess: TypeAlias = NoiseSchedule | ContinuousProcess
FIRST_TIME, LAST_TIME = 1e-4, 1 - 1e-4
"""The range of training times of a continuous process; at 0 and 1 some loss weights are infinite."""
TIME_SCALE = 1000.0
"""The factor of a continuous time for the network, whose sinusoids suit times of 0 to 1000."""


@dataclass(frozen=True)
class TrainedDiffusion:
    """The process, and the network's prediction.

    ``process`` has discrete timesteps, or is continuous. A network of a continuous process predicts x0, v or velocity,
    since a noise prediction has no x0 at its first level.
    """

    process: AnyProcess = field(default_factory=CosineNoise)
    prediction: Prediction = "noise"

    def __post_init__(self) -> None:
        if not self.is_discrete and self.prediction == "noise":
            kind = type(self.process).__name__
            raise ValueError(f"prediction: expected x0, v or velocity for the continuous {kind}, got noise")

    @property
    def is_discrete(self) -> bool:
        """True for a process of timesteps, False for one of continuous time."""
        return isinstance(self.process, NoiseSchedule)

    def discrete(self) -> DiscreteProcess:
        """Return the process of timesteps. Raise ``ValueError`` for a continuous one."""
        if not isinstance(self.process, NoiseSchedule):
            raise ValueError(f"process: expected one of timesteps, got {type(self.process).__name__}")
        return DiscreteProcess.of(self.process)

    def level(self, times: Float[Array, " B"]) -> NoiseLevel:
        """Return the level of each row's time in 0 .. 1, from data to noise; that of a timestep if it is discrete."""
        if not isinstance(self.process, NoiseSchedule):
            return _scaled(self.process.level(times.clip(FIRST_TIME, LAST_TIME)))
        process = self.discrete()
        return process.level(as_timesteps(times, process.steps))

    def levels(self, steps: int) -> Levels:
        """Return the levels of a sampler of ``steps`` steps; timesteps are evenly spaced."""
        if isinstance(self.process, NoiseSchedule):
            return self.discrete().respaced(RoundedSteps(steps)).levels
        levels = self.process.levels(steps)
        return levels._replace(times=TIME_SCALE * levels.times)

    def check_variance(self, learned: bool) -> None:
        """Raise ValueError for a learned variance of a continuous process, which has no range to learn it in."""
        if learned and not self.is_discrete:
            kind = type(self.process).__name__
            raise ValueError(f"unet.learned_variance: expected False for the continuous {kind}, got True")


def _scaled(level: NoiseLevel) -> NoiseLevel:
    """Scale a continuous time for the network."""
    return level._replace(time=TIME_SCALE * level.time)


@dataclass(frozen=True)
class ImageSampling:
    """The sampler of images, its steps, and the threshold of x0 in each step (None for none)."""

    sampler: Ddpm | Ddim | DpmSolver = field(default_factory=DpmSolver)
    steps: int = 20
    threshold: X0Threshold | None = field(default_factory=ClipX0)

    def __post_init__(self) -> None:
        if self.steps < 2:
            raise ValueError(f"steps: expected at least 2, got {self.steps}")

    def sample(
        self,
        denoise: Denoiser,
        diffusion: TrainedDiffusion,
        keys: Key[Array, " B"],
        shape: tuple[int, ...],
        start: Float[Array, " B *shape"] | None = None,
    ) -> Float[Array, " B *shape"]:
        """Sample an array [*shape] for each key; a row depends on its key and its conditions alone.

        ``start`` is the noise to begin with, such as that of ``invert``; without it the keys give the noise.
        """
        parameterization = Parameterization(diffusion.prediction, self.threshold)
        first = initial_noise(keys, shape) if start is None else start
        return self.sampler.sample(denoise, diffusion.levels(self.steps), first, KeyedNoise(keys), parameterization)

    def invert(
        self, denoise: Denoiser, diffusion: TrainedDiffusion, x0: Float[Array, " B *shape"], refinements: int
    ) -> Float[Array, " B *shape"]:
        """Return the noise from which ``sample`` with DDIM of eta 0 makes nearly ``x0`` (samplers/ddim.py)."""
        parameterization = Parameterization(diffusion.prediction, self.threshold)
        return invert(denoise, diffusion.levels(self.steps), x0, parameterization, refinements)


def model_output(values: Float[Array, "B H W F"], learned_variance: bool) -> ModelOutput:
    """Split a network's output channels into the prediction and, if it is learned, the variance."""
    return split_variance(values) if learned_variance else ModelOutput(values)


def to_pixels(x0: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Map -1 .. 1 to 0 .. 1, clipped."""
    return ((x0 + 1) / 2).clip(0, 1)


def from_pixels(pixels: Float[Array, "B H W 3"]) -> Float[Array, "B H W 3"]:
    """Map 0 .. 1 to -1 .. 1."""
    return 2 * pixels - 1
