"""Cross-entropy of tokens, and DALL·E 1's weighted sum over text and image."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int


class CrossEntropy(NamedTuple):
    """The negative log-likelihood of each target, and log Z, the logarithm of the sum of exp(logits)."""

    nats: Float[Array, "*batch"]
    log_z: Float[Array, "*batch"]


def cross_entropy(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> Float[Array, "*batch"]:
    """Compute the negative log-likelihood of each target, in nats and float32."""
    return cross_entropy_and_log_z(logits, targets).nats


def cross_entropy_and_log_z(logits: Float[Array, "*batch V"], targets: Int[Array, "*batch"]) -> CrossEntropy:
    """Compute the negative log-likelihood of each target and log Z, in nats and float32."""
    logits = logits.astype(jnp.float32)
    # Gathering the target's logit builds neither one-hot targets nor log-probabilities.
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    log_z = jax.nn.logsumexp(logits, axis=-1)
    return CrossEntropy(log_z - chosen, log_z)


def cross_entropy_in_parts(
    predict: Callable[[Float[Array, "B l D"]], Float[Array, "B l V"]],
    x: Float[Array, "B L D"],
    targets: Int[Array, "B L"],
    parts: int,
) -> CrossEntropy:
    """Compute ``cross_entropy_and_log_z(predict(x), targets)`` in ``parts`` ranges of positions, one after the other.

    The backward pass computes the logits of a range again. So the logits and their gradients of a single range are in
    memory, not those of all positions. ``predict`` must treat positions independently.
    """
    rows, length = targets.shape
    if length % parts:
        raise ValueError(f"parts: expected a divisor of {length} positions, got {parts}")
    if parts == 1:
        return cross_entropy_and_log_z(predict(x), targets)

    @jax.checkpoint
    def of_range(x: Array, targets: Array) -> CrossEntropy:
        return cross_entropy_and_log_z(predict(x), targets)

    ranges = (
        x.reshape(rows, parts, length // parts, -1).swapaxes(0, 1),
        targets.reshape(rows, parts, length // parts).swapaxes(0, 1),
    )
    found = jax.lax.map(lambda one: of_range(*one), ranges)  # [parts B l]
    return jax.tree.map(lambda one: one.swapaxes(0, 1).reshape(rows, length), found)


def weighted_mean(values: Float[Array, "*batch"], weights: Float[Array, "*batch"] | None = None) -> Float[Array, ""]:
    """Compute the mean, weighted if ``weights`` are given; 0 if they sum to 0."""
    if weights is None:
        return values.mean()
    total = weights.sum()
    return (values * weights).sum() / jnp.where(total == 0, 1.0, total)


def z_loss(log_z: Float[Array, "*batch"]) -> Float[Array, ""]:
    """Compute the mean of log Z squared, which keeps logits from drifting (PaLM, arXiv 2204.02311, section 5)."""
    return jnp.square(log_z).mean()


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
