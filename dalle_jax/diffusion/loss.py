"""Losses of diffusion and flow models: weighted squared error, and the hybrid loss of a learned variance."""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.diffusion.levels import NoiseLevel, add_noise, per_row
from dalle_jax.diffusion.parameterization import Estimate, ModelOutput, Prediction, from_estimate, to_estimate
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddpm import learned_log_variance
from dalle_jax.diffusion.weighting import LossWeighting, UniformWeight


def simple_loss(
    output: ModelOutput,
    x0: Float[Array, " B *shape"],
    noise: Float[Array, " B *shape"],
    level: NoiseLevel,
    prediction: Prediction,
    weighting: LossWeighting,
) -> Float[Array, " B"]:
    """Compute the weighted squared error of a prediction for each row, a mean over the row's values, in float32.

    ``output`` is the network's at ``add_noise(x0, noise, level)`` (arXiv 2006.11239, equation 14). For a rectified flow
    with "velocity" it is the flow matching loss (arXiv 2209.03003, equation 1).
    """
    x0, noise = x0.astype(jnp.float32), noise.astype(jnp.float32)
    target = from_estimate(Estimate(x0, noise), prediction, level)
    return weighting.weight(level, prediction) * _mean(jnp.square(output.prediction.astype(jnp.float32) - target))


@dataclass(frozen=True)
class HybridLoss:
    """L_simple + ``vlb`` × L_vlb for a learned variance (Nichol and Dhariwal 2021, arXiv 2102.09672, equation 16).

    L_vlb is T times a term of the variational bound in bits per value, for T timesteps. The mean gets no gradient, so
    it trains the variance alone. ``bins`` is the number of pixel values of data in -1 .. 1, or 0 for other data.
    """

    vlb: float = 0.001
    bins: int = 256
    weighting: LossWeighting = field(default_factory=UniformWeight)

    def __call__(
        self,
        output: ModelOutput,
        x0: Float[Array, " B *shape"],
        noise: Float[Array, " B *shape"],
        index: Int[Array, " B"],
        process: DiscreteProcess,
        prediction: Prediction,
    ) -> Float[Array, " B"]:
        """Compute the loss of each row, at its timestep ``index`` of the process."""
        simple = simple_loss(output, x0, noise, process.level(index), prediction, self.weighting)
        fixed = output._replace(prediction=jax.lax.stop_gradient(output.prediction))
        return simple + self.vlb * process.steps * vlb_term(fixed, x0, noise, index, process, prediction, self.bins)


def vlb_term(
    output: ModelOutput,
    x0: Float[Array, " B *shape"],
    noise: Float[Array, " B *shape"],
    index: Int[Array, " B"],
    process: DiscreteProcess,
    prediction: Prediction,
    bins: int,
) -> Float[Array, " B"]:
    """Compute a term of the variational bound, in bits per value (arXiv 2102.09672, equations 4 to 7).

    It is the KL divergence from the posterior to the reverse step for timesteps above 0, and the negative log
    likelihood of x0 at timestep 0.
    """
    if output.variance is None:
        raise ValueError("variance: expected a network with a learned variance, got only a prediction")
    x0, level = x0.astype(jnp.float32), process.level(index)
    x = add_noise(x0, noise, level)
    tables = process.posterior
    of_x0, of_x, small = (
        per_row(jnp.asarray(table.copy(), jnp.float32)[index], x)
        for table in (tables.of_x0, tables.of_x, tables.log_variance)
    )
    large = per_row(jnp.log(jnp.asarray(process.betas, jnp.float32))[index], x)
    estimate = to_estimate(output.prediction.astype(jnp.float32), prediction, x, level).x0
    log_variance = learned_log_variance(output.variance, small, large)
    mean = of_x0 * estimate + of_x * x
    kl = gaussian_kl(of_x0 * x0 + of_x * x, small, mean, log_variance)
    nll = binned_nll(x0, mean, log_variance, bins) if bins else gaussian_nll(x0, mean, log_variance)
    return _mean(jnp.where(per_row(index == 0, x), nll, kl)) / math.log(2)


def gaussian_kl(
    mean: Float[Array, "..."], log_variance: Array, other_mean: Float[Array, "..."], other_log_variance: Array
) -> Float[Array, "..."]:
    """Compute KL(N(mean, variance) || N(other mean, other variance)) for each value, in nats."""
    ratio = jnp.exp(log_variance - other_log_variance)
    distance = jnp.square(mean - other_mean) * jnp.exp(-other_log_variance)
    return 0.5 * (other_log_variance - log_variance - 1 + ratio + distance)


def gaussian_nll(x: Array, mean: Array, log_variance: Array) -> Float[Array, "..."]:
    """Compute the negative log density of a Gaussian for each value, in nats."""
    return 0.5 * (math.log(2 * math.pi) + log_variance + jnp.square(x - mean) * jnp.exp(-log_variance))


def binned_nll(x: Array, mean: Array, log_variance: Array, bins: int) -> Float[Array, "..."]:
    """Compute -log of a Gaussian's mass in the bin of each value, in nats (arXiv 2006.11239, equation 13).

    ``x`` is one of ``bins`` evenly spaced values in -1 .. 1. The outermost bins reach to infinity.
    """
    half, deviation = 1 / (bins - 1), jnp.exp(0.5 * log_variance)
    upper, lower = (x - mean + half) / deviation, (x - mean - half) / deviation
    inside = jax.scipy.stats.norm.cdf(upper) - jax.scipy.stats.norm.cdf(lower)
    log_inside = jnp.log(jnp.maximum(inside, 1e-12))
    log_first = jax.scipy.stats.norm.logcdf(upper)
    log_last = jax.scipy.stats.norm.logcdf(-lower)
    return -jnp.where(x < -0.999, log_first, jnp.where(x > 0.999, log_last, log_inside))


def _mean(values: Float[Array, " B *shape"]) -> Float[Array, " B"]:
    """Return the mean of each row."""
    return values.reshape(values.shape[0], -1).mean(axis=-1)
