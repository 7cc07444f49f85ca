"""Aligning two sets of unit vectors: the loss of CLIP (arXiv 2103.00020, figure 3) and how well they are aligned.

All are pure functions of a whole batch. Under ``layout.jit`` that is the global batch: negatives come from all devices.
"""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int


def same_rows(text: Int[Array, "B T"]) -> Bool[Array, "B B"]:
    """Which captions of a batch are the same: with itself always."""
    return (text[:, None, :] == text[None, :, :]).all(axis=-1)


def same_caption_group(text: Int[Array, "B T"], meaning: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """Which pairs of a batch say the same: by their rows of tokens or, worded otherwise, by their ``meaning``."""
    return same_rows(text) | (meaning[:, None] == meaning[None, :])


def contrastive(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    same: Bool[Array, "B B"] | None = None,
) -> Float[Array, ""]:
    """Symmetric cross-entropy over the [B B] similarities, in float32.

    ``same`` (symmetric) marks captions that say the same: each of the n pictures with one caption then has a target
    of 1 / n, where CLIP's own loss (None) would call n - 1 right answers wrong. On captions drawn from a small grammar
    such pairs are common; on captions written by people they hardly occur.
    """
    logits = scale * similarities(image, text)  # [B B]
    same = jnp.eye(logits.shape[0], dtype=bool) if same is None else same
    targets = same / same.sum(axis=-1, keepdims=True)
    of_image = -(targets * jax.nn.log_softmax(logits, axis=-1)).sum(-1).mean()
    of_text = -(targets * jax.nn.log_softmax(logits.T, axis=-1)).sum(-1).mean()
    return (of_image + of_text) / 2


def sigmoid(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    same: Bool[Array, "B B"] | None = None,
) -> Float[Array, ""]:
    """SigLIP's loss (arXiv 2303.15343, equation 1): every pair by itself is one that belongs together, or not.

    The sum over all pairs, divided by B, in float32. ``same`` marks captions that say the same: their pairs belong
    together too.
    """
    logits = scale * similarities(image, text) + bias  # [B B]
    same = jnp.eye(logits.shape[0], dtype=bool) if same is None else same
    return -jax.nn.log_sigmoid(jnp.where(same, logits, -logits)).sum() / logits.shape[0]


def similarities(image: Float[Array, "B E"], text: Float[Array, "N E"]) -> Float[Array, "B N"]:
    """Cosines of unit vectors, in float32."""
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    return jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)


def retrieval_hits(
    image: Float[Array, "B E"], text: Float[Array, "B E"], same: Bool[Array, "B B"]
) -> tuple[Bool[Array, " B"], Bool[Array, " B"]]:
    """Whether the nearest caption of each picture, and the nearest picture of each caption, is as good as its own."""
    cosines = similarities(image, text)
    rows = jnp.arange(cosines.shape[0])
    return same[rows, cosines.argmax(axis=1)], same[rows, cosines.argmax(axis=0)]
