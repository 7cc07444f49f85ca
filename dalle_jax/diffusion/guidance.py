"""Guidance: functions from a denoiser to a guided denoiser, which every sampler takes.

All predictions are affine in each other at a given x, so guidance of any of them is guidance of the noise.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, PyTree
from dalle_jax.diffusion.levels import NoiseLevel, per_row
from dalle_jax.diffusion.parameterization import Denoiser, Estimate, ModelOutput, Prediction, from_estimate, to_estimate


@runtime_checkable
class ConditionedDenoiser(Protocol):
    """A network with its conditions as an argument: arrays with a row per row of x."""

    def __call__(self, x: Float[Array, " B *shape"], level: NoiseLevel, conditions: PyTree, /) -> ModelOutput:
        """Return the prediction for each row."""
        ...


@dataclass(frozen=True)
class Guidance:
    """Options of classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598, equation 6, scale = 1 + w).

    A ``scale`` of 1 is no guidance. ``rescale`` is phi of Lin et al. 2023, arXiv 2305.08891, equation 16, who propose
    0.7; 0 is off. Guidance acts where ``low`` < sigma / alpha <= ``high`` (Kynkäänniemi et al. 2024, arXiv
    2404.07724); outside, only the conditional forward runs.
    """

    scale: float = 1.0
    rescale: float = 0.0
    low: float = 0.0
    high: float = float("inf")

    def __post_init__(self) -> None:
        if self.scale < 0:
            raise ValueError(f"scale: expected 0 or more, got {self.scale}")
        if not 0 <= self.rescale <= 1:
            raise ValueError(f"rescale: expected between 0 and 1, got {self.rescale}")
        if not 0 <= self.low < self.high:
            raise ValueError(f"low, high: expected 0 <= low < high, got {self.low} and {self.high}")


def classifier_free(
    denoise: ConditionedDenoiser,
    conditional: PyTree,
    unconditional: PyTree,
    guidance: Guidance,
    scales: Float[Array, " B"] | None = None,
) -> Denoiser:
    """Guide by the difference to the unconditional prediction, both rows of one forward: [conditional; unconditional].

    A learned variance is the conditional one (as in GLIDE and DALL·E 2). A scale of 1 calls the network with the
    conditional rows alone. ``scales`` replaces ``guidance.scale`` by a scale for each row.
    """

    def plain(x: Array, level: NoiseLevel) -> ModelOutput:
        return denoise(x, level, conditional)

    if scales is None and guidance.scale == 1:
        return plain
    both = jax.tree.map(lambda one, other: jnp.concatenate([one, other]), conditional, unconditional)

    def guided(x: Array, level: NoiseLevel) -> ModelOutput:
        doubled = NoiseLevel(*(jnp.concatenate([one, one]) for one in level))
        output = denoise(jnp.concatenate([x, x]), doubled, both)
        positive, negative = jnp.split(output.prediction.astype(jnp.float32), 2)
        variance = None if output.variance is None else output.variance[: x.shape[0]]
        scale = guidance.scale if scales is None else per_row(scales, x)
        return ModelOutput(_rescaled(negative + scale * (positive - negative), positive, guidance), variance)

    if guidance.low <= 0 and guidance.high == float("inf"):
        return guided

    def within_interval(x: Array, level: NoiseLevel) -> ModelOutput:
        # All rows of a sampler's step have one level, so that the branch is chosen by the first.
        inside = _inside(guidance, level.alpha[0], level.sigma[0])
        return jax.lax.cond(inside, guided, lambda x, level: _float32(plain(x, level)), x, level)

    return within_interval


def _inside(guidance: Guidance, alpha: Float[Array, ""], sigma: Float[Array, ""]) -> Array:
    """Return whether low < sigma / alpha <= high, also for alpha = 0."""
    above = sigma > guidance.low * alpha
    return above if guidance.high == float("inf") else above & (sigma <= guidance.high * alpha)


def _float32(output: ModelOutput) -> ModelOutput:
    """Return the output with the dtype of a guided prediction, as both branches of a condition need."""
    return output._replace(prediction=output.prediction.astype(jnp.float32))


def _rescaled(guided: Array, positive: Array, guidance: Guidance) -> Array:
    """Give the guided prediction the standard deviation of the conditional one (arXiv 2305.08891, equations 15, 16)."""
    if not guidance.rescale:
        return guided
    axes = tuple(range(1, guided.ndim))
    ratio = positive.std(axes, keepdims=True) / jnp.maximum(guided.std(axes, keepdims=True), 1e-8)
    return guidance.rescale * ratio * guided + (1 - guidance.rescale) * guided


LogLikelihoodGradient: TypeAlias = Callable[[Array, NoiseLevel], Array]
"""The gradient of log p(condition | x) with respect to the noised x [B *shape], at the level of each row."""


def score_guided(denoise: Denoiser, gradient: LogLikelihoodGradient, scale: float, prediction: Prediction) -> Denoiser:
    """Guide by the gradient of a classifier, or of a CLIP that was trained on noised images.

    noise' = noise - sigma scale gradient, with the same x (Dhariwal and Nichol 2021, arXiv 2105.05233, equation 14). It
    holds for every sampler. ``clip_gradient`` is the gradient of GLIDE's CLIP guidance.
    """

    def guided(x: Array, level: NoiseLevel) -> ModelOutput:
        output = denoise(x, level)
        found = to_estimate(output.prediction.astype(jnp.float32), prediction, x, level)
        alpha, sigma = per_row(level.alpha, x), per_row(level.sigma, x)
        shift = sigma * scale * gradient(x, level)
        moved = Estimate(found.x0 + sigma / alpha * shift, found.noise - shift)
        return output._replace(prediction=from_estimate(moved, prediction, level))

    return guided


def clip_gradient(embed: Callable[[Array, NoiseLevel], Array], text: Float[Array, "B E"]) -> LogLikelihoodGradient:
    """Return the gradient of embed(x) · text with respect to x (GLIDE, arXiv 2112.10741, section 2.4).

    ``embed`` is a CLIP that was trained on noised images (section 4.4). ``embed`` and ``text`` are unit vectors [B E].
    Rows do not depend on each other.
    """

    def similarity(x: Array, level: NoiseLevel) -> Array:
        return (embed(x, level) * text).sum()

    return jax.grad(similarity)
