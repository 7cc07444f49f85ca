"""Processes in continuous time t from 0 (data) to 1 (noise): a closed union of small dataclasses.

Rectified flow is Liu et al. 2022, arXiv 2209.03003; flow matching with the same path is arXiv 2210.02747.
"""

from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.levels import Levels, NoiseLevel


@dataclass(frozen=True)
class RectifiedFlow:
    """The straight path x_t = (1 - t) x0 + t noise, dx/dt = noise - x0 (arXiv 2209.03003, equation 1)."""

    def level(self, time: Float[Array, " B"]) -> NoiseLevel:
        """Return the level of each row's time."""
        return NoiseLevel(time, 1 - time, time)

    def levels(self, steps: int, shift: float = 1.0, first: float = 1.0) -> Levels:
        """Return the levels of a sampler; see ``sampling_times``."""
        times = sampling_times(steps, shift, first)
        return Levels(times[:-1], 1 - times, times)


@dataclass(frozen=True)
class CosinePath:
    """alpha = cos(pi t / 2), sigma = sin(pi t / 2) (Salimans and Ho 2022, arXiv 2202.00512, section 4)."""

    def level(self, time: Float[Array, " B"]) -> NoiseLevel:
        """Return the level of each row's time."""
        angle = jnp.pi / 2 * time
        return NoiseLevel(time, jnp.cos(angle), jnp.sin(angle))

    def levels(self, steps: int, shift: float = 1.0, first: float = 1.0) -> Levels:
        """Return the levels of a sampler; see ``sampling_times``."""
        times = sampling_times(steps, shift, first)
        return Levels(times[:-1], np.sin(np.pi / 2 * (1 - times)), np.sin(np.pi / 2 * times))


@dataclass(frozen=True)
class VariancePath:
    """alpha^2 = 1 - t, sigma^2 = t, so that log SNR = -logit(t) and a logit-normal t has a normal log SNR."""

    def level(self, time: Float[Array, " B"]) -> NoiseLevel:
        """Return the level of each row's time."""
        return NoiseLevel(time, jnp.sqrt(1 - time), jnp.sqrt(time))

    def levels(self, steps: int, shift: float = 1.0, first: float = 1.0) -> Levels:
        """Return the levels of a sampler; see ``sampling_times``."""
        times = sampling_times(steps, shift, first)
        return Levels(times[:-1], np.sqrt(1 - times), np.sqrt(times))


ContinuousProcess: TypeAlias = RectifiedFlow | CosinePath | VariancePath


def sampling_times(steps: int, shift: float = 1.0, first: float = 1.0) -> Float[np.ndarray, " levels"]:
    """Return ``first`` … 0 in equal steps, then t' = shift t / (1 + (shift - 1) t).

    A shift above 1 spends more steps at high noise (Esser et al. 2024, arXiv 2403.03206, equation 23).
    At ``first`` = 1 alpha is 0, where a network that predicts noise has no x0.
    """
    if steps < 1 or shift <= 0 or not 0 < first <= 1:
        raise ValueError(
            f"expected steps of at least 1, a positive shift and first in (0, 1], got {steps}, {shift}, {first}"
        )
    times = np.linspace(first, 0, steps + 1)
    return shift * times / (1 + (shift - 1) * times)


def straight_levels(shares: Float[np.ndarray, " levels"]) -> Levels:
    """Return the levels of rectified flow at rising shares 1 - t of the data; the network's time is the share."""
    return Levels(shares[:-1], shares, 1 - shares)


def straight_level(shares: Float[Array, " B"]) -> NoiseLevel:
    """Return the level of each row's share 1 - t of the data; the network's time is the share."""
    return NoiseLevel(shares, shares, 1 - shares)


@dataclass(frozen=True)
class UniformTimes:
    """Training times that are uniform in 0 .. 1."""

    def draw(self, keys: Key[Array, " B"]) -> Float[Array, " B"]:
        """Draw a time for each row from its key."""
        return jax.vmap(jax.random.uniform)(keys)


@dataclass(frozen=True)
class LogitNormalTimes:
    """Training times t = sigmoid(N(mean, deviation^2)) (arXiv 2403.03206, section 3.1); higher is noisier."""

    mean: float = 0.0
    deviation: float = 1.0

    def draw(self, keys: Key[Array, " B"]) -> Float[Array, " B"]:
        """Draw a time for each row from its key."""
        return jax.nn.sigmoid(self.mean + self.deviation * jax.vmap(jax.random.normal)(keys))


TrainingTimes: TypeAlias = UniformTimes | LogitNormalTimes


def as_timesteps(times: Float[Array, " B"], steps: int) -> Array:
    """Return the timestep 0 .. steps - 1 of a discrete process for each time in 0 .. 1."""
    return jnp.minimum((times * steps).astype(jnp.int32), steps - 1)
