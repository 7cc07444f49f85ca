"""Consistency sampling: a network that maps x_t to x0 in one step, refined by noising x0 again (arXiv 2303.01469).

With sigma the ratio of noise to data at a timestep and sigma_d the deviation of the data, the network F gives
``x0 = c_out F(c_in x_t, t) + c_skip x_t`` (appendix C there, and Karras et al. 2022, arXiv 2206.00364, table 1).
"""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.sampler import StepNoise

ScaledNetwork: TypeAlias = Callable[[Array, Array], Array]
"""The network F: a scaled x [B *shape] and its timesteps [B] to an array [B *shape]."""


class Scalings(NamedTuple):
    """The factors of x, of the network's output and of its input for each timestep, in float64."""

    skip: Float[np.ndarray, " steps"]
    out: Float[np.ndarray, " steps"]
    into: Float[np.ndarray, " steps"]


def scalings(process: DiscreteProcess, data_deviation: float) -> Scalings:
    """Compute the factors of a variance-preserving process, whose x_t is divided by alpha first."""
    alpha = np.sqrt(process.alpha_bars)
    sigma = np.sqrt(1 / process.alpha_bars - 1)
    total = sigma**2 + data_deviation**2
    return Scalings(
        data_deviation**2 / total / alpha, sigma * data_deviation / np.sqrt(total), 1 / np.sqrt(total) / alpha
    )


def sample_consistency(
    network: ScaledNetwork,
    process: DiscreteProcess,
    timesteps: tuple[int, ...],
    start: Float[Array, " B *shape"],
    noise: StepNoise,
    data_deviation: float = 0.5,
) -> Float[Array, " B *shape"]:
    """Sample at falling timesteps: predict x0, noise it to the next one, and predict again (algorithm 1).

    ``start`` has deviation 1. The network runs once for each timestep.
    """
    factors, bars = scalings(process, data_deviation), process.alpha_bars
    x = float(np.sqrt(1 - bars[timesteps[0]])) * start
    for number, timestep in enumerate(timesteps):
        if number:
            drawn = noise.at(jnp.int32(number - 1), x)
            x = float(np.sqrt(bars[timestep])) * x + float(np.sqrt(1 - bars[timestep])) * drawn
        predicted = network(float(factors.into[timestep]) * x, jnp.full(x.shape[0], timestep))
        x = float(factors.out[timestep]) * predicted + float(factors.skip[timestep]) * x
    return x
