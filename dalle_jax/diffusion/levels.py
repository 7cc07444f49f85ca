"""Noise levels: x_t = alpha x0 + sigma noise, in training (one level per row) and along a sampler's steps.

Every process of this folder has this form (Kingma et al. 2021, arXiv 2107.00630, equation 1), with the signal-to-noise
ratio SNR = alpha^2 / sigma^2. Variance-preserving processes have alpha^2 + sigma^2 = 1, and rectified flow has
alpha + sigma = 1.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Float
from dalle_jax.parallel.layout import by_rows


class NoiseLevel(NamedTuple):
    """The level of each row: the time that the network is given, alpha and sigma.

    ``time`` is the original timestep index of a discrete process, or t in 0 .. 1 of a continuous one.
    """

    time: Float[Array, " B"]
    alpha: Float[Array, " B"]
    sigma: Float[Array, " B"]

    @property
    def snr(self) -> Float[Array, " B"]:
        """The signal-to-noise ratio alpha^2 / sigma^2."""
        return jnp.square(self.alpha / self.sigma)


class Levels(NamedTuple):
    """The levels that a sampler passes, from noise to data, in float64 numpy.

    Step i goes from level i to level i + 1, and evaluates the network at ``times[i]``. The last level has sigma 0 if
    sampling goes to the data.
    """

    times: Float[np.ndarray, " steps"]
    alphas: Float[np.ndarray, " levels"]
    sigmas: Float[np.ndarray, " levels"]

    @property
    def steps(self) -> int:
        """The number of steps, S."""
        return len(self.times)

    def after(self, step: int) -> "Levels":
        """Return the levels from step ``step`` on, to start with a partly noised image."""
        if not 0 <= step < self.steps:
            raise ValueError(f"step: expected between 0 and {self.steps - 1}, got {step}")
        return Levels(self.times[step:], self.alphas[step:], self.sigmas[step:])

    def first(self, rows: int) -> NoiseLevel:
        """Return the level at which sampling starts, for ``rows`` rows."""
        return NoiseLevel(*(jnp.full(rows, values[0], jnp.float32) for values in self))


class Posterior(NamedTuple):
    """q(x_{i+1} | x_i, x0) = N(of_x0 x0 + of_x x_i, variance), with arrays over steps in float64.

    ``beta`` is the variance of x_i given x_{i+1}. ``variance`` is called beta tilde (arXiv 2006.11239, equation 7).
    ``log_variance`` of a step to data, where the variance is 0, is that of the step before (arXiv 2102.09672).
    """

    of_x0: Float[np.ndarray, " steps"]
    of_x: Float[np.ndarray, " steps"]
    beta: Float[np.ndarray, " steps"]
    variance: Float[np.ndarray, " steps"]
    log_variance: Float[np.ndarray, " steps"]


def posterior(levels: Levels) -> Posterior:
    """Compute the posterior of each step, for any alpha and sigma (arXiv 2107.00630, appendix A.2)."""
    alpha, sigma, next_alpha, next_sigma = levels.alphas[:-1], levels.sigmas[:-1], levels.alphas[1:], levels.sigmas[1:]
    ratio = alpha / next_alpha
    beta = sigma**2 - ratio**2 * next_sigma**2
    variance = beta * next_sigma**2 / sigma**2
    clipped = variance.copy()
    if len(variance) > 1 and variance[-1] == 0:
        clipped[-1] = variance[-2]
    log_variance = np.log(np.maximum(clipped, 1e-20))
    return Posterior(next_alpha * beta / sigma**2, ratio * next_sigma**2 / sigma**2, beta, variance, log_variance)


def per_row(values: Float[Array, " B"] | Bool[Array, " B"], x: Float[Array, " B *shape"]) -> Array:
    """Append axes of length 1 to values per row, to broadcast them against ``x``."""
    return values.reshape(values.shape + (1,) * (x.ndim - 1))


def add_noise(x0: Float[Array, " B *shape"], noise: Float[Array, " B *shape"], level: NoiseLevel) -> Array:
    """Return x_t = alpha x0 + sigma noise (arXiv 2006.11239, equation 4), in float32."""
    x0, noise = x0.astype(jnp.float32), noise.astype(jnp.float32)
    return per_row(level.alpha, x0) * x0 + per_row(level.sigma, x0) * noise


def initial_noise(keys: Array, shape: tuple[int, ...], temperature: float = 1.0) -> Float[Array, " B *shape"]:
    """Draw the noise [B *shape] at which sampling starts; a row depends on its key alone."""
    draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, 0), shape))
    return by_rows(temperature * draw(keys))
