"""Predictions of a denoising network and their conversion: noise, x0, v and velocity; thresholds of x0.

With x = alpha x0 + sigma noise, each prediction together with x determines both x0 and the noise:

    noise      Ho et al. 2020, arXiv 2006.11239, section 3.2
    x0         DALL·E 2's prior, arXiv 2204.06125, equation 2
    v          alpha noise - sigma x0: Salimans and Ho 2022, arXiv 2202.00512, section 4
    velocity   noise - x0 = dx/dt of alpha = 1 - t, sigma = t: Liu et al. 2022, arXiv 2209.03003, equation 1
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax.numpy as jnp

from dalle_jax.arrays import Array, Float
from dalle_jax.diffusion.levels import NoiseLevel, per_row

Prediction: TypeAlias = Literal["noise", "x0", "v", "velocity"]


class ModelOutput(NamedTuple):
    """A network's prediction, and its variance if it learns one: values of about -1 .. 1, see ``Ddpm``."""

    prediction: Float[Array, " B *shape"]
    variance: Float[Array, " B *shape"] | None = None


@runtime_checkable
class Denoiser(Protocol):
    """A network with its conditions closed over: noised x and its level → prediction. One call is one forward."""

    def __call__(self, x: Float[Array, " B *shape"], level: NoiseLevel, /) -> ModelOutput:
        """Return the prediction for each row."""
        ...


class Estimate(NamedTuple):
    """The x0 and the noise that a prediction implies; alpha x0 + sigma noise = x."""

    x0: Float[Array, " B *shape"]
    noise: Float[Array, " B *shape"]


def split_variance(output: Float[Array, " B *shape C"]) -> ModelOutput:
    """Split the channels of a network with learned variance: prediction first, then variance, each in float32."""
    if output.shape[-1] % 2:
        raise ValueError(f"channels: expected an even number (prediction, then variance), got {output.shape[-1]}")
    prediction, variance = jnp.split(output.astype(jnp.float32), 2, axis=-1)
    return ModelOutput(prediction, variance)


def to_estimate(
    value: Float[Array, " B *shape"], prediction: Prediction, x: Float[Array, " B *shape"], level: NoiseLevel
) -> Estimate:
    """Convert a prediction at x to x0 and noise.

    A noise prediction needs alpha > 0. An x0 prediction needs sigma > 0.
    """
    alpha, sigma = per_row(level.alpha, x), per_row(level.sigma, x)
    if prediction == "noise":
        return Estimate((x - sigma * value) / alpha, value)
    if prediction == "x0":
        return Estimate(value, (x - alpha * value) / sigma)
    if prediction == "v":
        square = alpha**2 + sigma**2
        return Estimate((alpha * x - sigma * value) / square, (sigma * x + alpha * value) / square)
    return Estimate((x - sigma * value) / (alpha + sigma), (x + alpha * value) / (alpha + sigma))


def from_estimate(estimate: Estimate, prediction: Prediction, level: NoiseLevel) -> Float[Array, " B *shape"]:
    """Convert x0 and noise to a prediction; the training target, given the true x0 and noise."""
    x0, noise = estimate
    if prediction == "noise":
        return noise
    if prediction == "x0":
        return x0
    if prediction == "v":
        return per_row(level.alpha, x0) * noise - per_row(level.sigma, x0) * x0
    return noise - x0


@dataclass(frozen=True)
class ClipX0:
    """Clip x0 to -limit .. limit. Pixels have limit 1; Karlo's prior has 5."""

    limit: float = 1.0

    def apply(self, x0: Float[Array, " B *shape"]) -> Float[Array, " B *shape"]:
        """Return x0 within the limit."""
        return jnp.clip(x0, -self.limit, self.limit)


@dataclass(frozen=True)
class DynamicThreshold:
    """Imagen's dynamic thresholding (Saharia et al. 2022, arXiv 2205.11487, section 2.3).

    s is the ``quantile`` of abs(x0) in each image, at least ``limit``. x0 is clipped to -s .. s and multiplied by
    limit / s.
    """

    quantile: float = 0.995
    limit: float = 1.0

    def apply(self, x0: Float[Array, " B *shape"]) -> Float[Array, " B *shape"]:
        """Return x0 within the limit."""
        size = jnp.quantile(jnp.abs(x0).reshape(x0.shape[0], -1), self.quantile, axis=-1)
        size = per_row(jnp.maximum(size, self.limit), x0)
        return jnp.clip(x0, -size, size) * (self.limit / size)


X0Threshold: TypeAlias = ClipX0 | DynamicThreshold


@dataclass(frozen=True)
class Parameterization:
    """The quantity that the network predicts, and the threshold of x0 while sampling (None for none)."""

    prediction: Prediction
    threshold: X0Threshold | None = None

    def estimate(self, output: ModelOutput, x: Float[Array, " B *shape"], level: NoiseLevel) -> Estimate:
        """Return x0, thresholded, and the noise that is consistent with it, in float32."""
        found = to_estimate(output.prediction.astype(jnp.float32), self.prediction, x, level)
        if self.threshold is None:
            return found
        x0 = self.threshold.apply(found.x0)
        return to_estimate(x0, "x0", x, level)
