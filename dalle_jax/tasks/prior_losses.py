"""The loss of each kind of prior, from image vectors and the text that it reads.

B batch   E embedding   C codes of a vector
"""

from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Key
from dalle_jax.diffusion.continuous import straight_level
from dalle_jax.diffusion.levels import add_noise
from dalle_jax.diffusion.loss import simple_loss
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.weighting import UniformWeight
from dalle_jax.losses.contrastive import text_given_image
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.priors.autoregressive_prior import AutoregressivePrior
from dalle_jax.models.priors.diffusion_prior import TIMESTEPS, DiffusionPrior, process
from dalle_jax.models.priors.mlp_prior import MlpPrior
from dalle_jax.models.priors.one_step_prior import OneStepPrior
from dalle_jax.models.priors.prior import TextCondition


def drop_text(text: TextCondition, empty: TextCondition, dropped: Bool[Array, " B"]) -> TextCondition:
    """Replace the text of the ``dropped`` rows by the empty text, which is one row."""

    def choose(full: Array, blank: Array) -> Array:
        return jnp.where(dropped.reshape(-1, *(1,) * (full.ndim - 1)), blank, full)

    return TextCondition(*(choose(*pair) for pair in zip(text, empty, strict=True)))


def diffusion_loss(
    prior: DiffusionPrior, image: Float[Array, "B E"], text: TextCondition, key: Key[Array, ""]
) -> Float[Array, " B"]:
    """Compute the squared error of x0 at uniform timesteps (arXiv 2204.06125, section 2.2, equation 2)."""
    time_key, noise_key = jax.random.split(key)
    clean, noise = prior.normalise(image), jax.random.normal(noise_key, image.shape)
    level = process().level(jax.random.randint(time_key, image.shape[:1], 0, TIMESTEPS))
    output = ModelOutput(prior(add_noise(clean, noise, level), level.time, text))
    return simple_loss(output, clean, noise, level, "x0", UniformWeight())


def mlp_loss(
    prior: MlpPrior, image: Float[Array, "B E"], text: TextCondition, key: Key[Array, ""]
) -> Float[Array, " B"]:
    """Compute the squared error of x0 on the straight path, at uniform times."""
    time_key, noise_key = jax.random.split(key)
    clean, noise = prior.normalise(image), jax.random.normal(noise_key, image.shape)
    level = straight_level(jax.random.uniform(time_key, image.shape[:1]))
    output = ModelOutput(prior(add_noise(clean, noise, level), level.time, text.vector))
    return simple_loss(output, clean, noise, level, "x0", UniformWeight())


def code_loss(
    prior: AutoregressivePrior, image: Float[Array, "B E"], text: TextCondition, whole: TextCondition
) -> Float[Array, "B C"]:
    """Compute the cross-entropy of the codes, in nats; the dot product is with ``whole``, the text before dropping."""
    codes, token = prior.codes.encode(image), prior.dot_products(image, whole.vector)
    return cross_entropy(prior(text, token, codes), codes)


SampledPrior: TypeAlias = DiffusionPrior | MlpPrior | AutoregressivePrior
"""The priors that sample a vector, whose loss is a mean over examples."""


def sampled_loss(
    prior: SampledPrior, image: Float[Array, "B E"], text: TextCondition, whole: TextCondition, key: Key[Array, ""]
) -> Float[Array, ""]:
    """Compute the mean loss of a batch; some rows of ``text`` are dropped, none of ``whole``."""
    if isinstance(prior, DiffusionPrior):
        return diffusion_loss(prior, image, text, key).mean()
    if isinstance(prior, MlpPrior):
        return mlp_loss(prior, image, text, key).mean()
    return code_loss(prior, image, text, whole).mean()


class OneStepVectors(NamedTuple):
    """A one-step prior's prediction and the image vector, both normalised, with the text vector."""

    predicted: Float[Array, "B E"]
    image: Float[Array, "B E"]
    text: Float[Array, "B E"]


def one_step_vectors(prior: OneStepPrior, image: Float[Array, "B E"], text: TextCondition) -> OneStepVectors:
    """Predict the image vectors of a batch."""
    return OneStepVectors(prior(text), prior.normalise(image), text.vector)


class EclipseLoss(NamedTuple):
    """The two parts of the loss of ECLIPSE."""

    squared_error: Float[Array, ""]
    contrast: Float[Array, ""]


def eclipse_loss(
    prior: OneStepPrior, vectors: OneStepVectors, scale: float | Float[Array, ""], same: Bool[Array, "B B"]
) -> EclipseLoss:
    """Compute the projection loss and the contrast of predictions with all texts (arXiv 2312.04655, section 3.2).

    ``scale`` is 1 / temperature. ``same`` marks pairs with equivalent captions.
    """
    error = jnp.square(vectors.predicted - vectors.image).mean()
    return EclipseLoss(error, text_given_image(prior.denormalise(vectors.predicted), vectors.text, scale, same))
