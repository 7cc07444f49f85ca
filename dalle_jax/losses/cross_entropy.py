"""Cross-entropy of tokens, and DALL·E 1's weighing of text and image."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int


def cross_entropy(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Negative log likelihood of each target, in nats; float32."""
    logits = logits.astype(jnp.float32)
    # The target's logit is gathered from the logits themselves: neither a one-hot nor log-probabilities are built.
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def weighted_mean(values: Float[Array, "*batch"], weights: Float[Array, "*batch"] | None = None) -> Float[Array, ""]:
    """The mean, or the sum of weight times value over the sum of weights (0 if that is 0)."""
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
    """``text_weight`` times the mean text loss plus the rest times the mean image loss (DALL·E 1, section 2.2).

    Each mean is over its own tokens. Without text losses the result is the mean image loss alone.
    """
    image = weighted_mean(image_nll, image_token_weights)
    if text_nll is None:
        return image
    return text_weight * weighted_mean(text_nll, text_token_weights) + (1.0 - text_weight) * image
