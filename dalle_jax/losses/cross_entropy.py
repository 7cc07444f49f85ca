"""Cross-entropy of tokens, and DALL·E 1's weighted sum over text and image."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int


def cross_entropy(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Compute the negative log-likelihood of each target, in nats and float32."""
    logits = logits.astype(jnp.float32)
    # Gathering the target's logit builds neither one-hot targets nor log-probabilities.
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def weighted_mean(values: Float[Array, "*batch"], weights: Float[Array, "*batch"] | None = None) -> Float[Array, ""]:
    """Compute the mean, weighted if ``weights`` are given; 0 if they sum to 0."""
    if weights is None:
        return values.mean()
    total = weights.sum()
    return (values * weights).sum() / jnp.where(total == 0, 1.0, total)


def dalle_loss(
    text_nll: Float[Array, "B T"] | None,
    image_nll: Float[Array, "B I"],
    *,
    text_weight: float = 1 / 8,
    text_token_weights: Float[Array, "B T"] | None = None,
    image_token_weights: Float[Array, "B I"] | None = None,
) -> Float[Array, ""]:
    """Compute DALL·E 1's loss (Ramesh et al. 2021, arXiv 2102.12092, section 2.2).

    It is ``text_weight`` times the mean text loss plus (1 - ``text_weight``) times the mean image loss. Each mean is
    over its own tokens. Without text losses it is the mean image loss.
    """
    image = weighted_mean(image_nll, image_token_weights)
    if text_nll is None:
        return image
    return text_weight * weighted_mean(text_nll, text_token_weights) + (1.0 - text_weight) * image
