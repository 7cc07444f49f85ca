"""Aligning two sets of unit vectors: the loss of CLIP (arXiv 2103.00020, figure 3) and how well they are aligned.

All are pure functions of a whole batch. Under ``layout.jit`` that is the global batch: negatives come from all devices.
"""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int


def same_rows(text: Int[Array, "B T"]) -> Bool[Array, "B B"]:
    """Which captions of a batch are the same: with itself always."""
    return (text[:, None, :] == text[None, :, :]).all(axis=-1)


def same_meaning(text: Int[Array, "B T"], meaning: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """Which pairs of a batch say the same: by their rows of tokens or, worded otherwise, by their ``meaning``."""
    return same_rows(text) | (meaning[:, None] == meaning[None, :])


def contrastive(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    same: Bool[Array, "B B"] | None = None,
    counted: Bool[Array, " B"] | None = None,
    candidates: Bool[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """Symmetric cross-entropy over the [B B] similarities, in float32.

    ``same`` (symmetric) marks captions that say the same: each of the n pictures with one caption then has a target
    of 1 / n, where CLIP's own loss (None) would call n - 1 right answers wrong. On captions drawn from a small grammar
    such pairs are common; on captions written by people they hardly occur.

    The mean is over the rows that are ``counted``, each told apart from the ``candidates``; None is all rows.
    """
    logits = scale * similarities(image, text)  # [B B]
    same = jnp.eye(logits.shape[0], dtype=bool) if same is None else same
    if candidates is None:
        targets = same / same.sum(axis=-1, keepdims=True)
    else:
        same &= candidates
        targets = same / jnp.maximum(same.sum(axis=-1, keepdims=True), 1)
    of_image = -_mean((targets * jax.nn.log_softmax(_among(logits, candidates), axis=-1)).sum(-1), counted)
    of_text = -_mean((targets * jax.nn.log_softmax(_among(logits.T, candidates), axis=-1)).sum(-1), counted)
    return (of_image + of_text) / 2


def sigmoid(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    same: Bool[Array, "B B"] | None = None,
    counted: Bool[Array, " B"] | None = None,
    candidates: Bool[Array, " B"] | None = None,
) -> Float[Array, ""]:
    """SigLIP's loss (arXiv 2303.15343, equation 1): every pair by itself is one that belongs together, or not.

    The sum over all pairs, divided by B, in float32. ``same`` marks captions that say the same: their pairs belong
    together too. With ``counted`` and ``candidates`` the pairs are those of counted images and candidate captions,
    divided by the number of counted images.
    """
    logits = scale * similarities(image, text) + bias  # [B B]
    same = jnp.eye(logits.shape[0], dtype=bool) if same is None else same
    log_likelihoods = jax.nn.log_sigmoid(jnp.where(same, logits, -logits))
    if counted is None or candidates is None:
        return -log_likelihoods.sum() / logits.shape[0]
    pairs = counted[:, None] & candidates
    return -jnp.where(pairs, log_likelihoods, 0.0).sum() / counted.sum()


def similarities(image: Float[Array, "B E"], text: Float[Array, "N E"]) -> Float[Array, "B N"]:
    """Cosines of unit vectors, in float32."""
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    return jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)


def retrieved(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    same: Bool[Array, "B B"],
    candidates: Bool[Array, " B"] | None = None,
) -> tuple[Bool[Array, " B"], Bool[Array, " B"]]:
    """Return whether the nearest caption of each image, and the nearest image of each caption, is as good as its own.

    Both are looked for among the ``candidates``; None is all rows.
    """
    cosines = similarities(image, text)
    rows = jnp.arange(cosines.shape[0])
    captions, images = _among(cosines, candidates).argmax(axis=1), _among(cosines.T, candidates).argmax(axis=1)
    return same[rows, captions], same[rows, images]


def _among(values: Float[Array, "B N"], candidates: Bool[Array, " N"] | None) -> Float[Array, "B N"]:
    """Return the values with the lowest finite number in the columns that are not candidates."""
    return values if candidates is None else jnp.where(candidates, values, jnp.finfo(values.dtype).min)


def _mean(values: Float[Array, " B"], counted: Bool[Array, " B"] | None) -> Float[Array, ""]:
    """Return the mean over the counted rows; None is all rows."""
    return values.mean() if counted is None else jnp.where(counted, values, 0.0).sum() / counted.sum()


def zero_shot(image: Float[Array, "B E"], captions: Float[Array, "N E"], label: Int[Array, " B"]) -> Bool[Array, " B"]:
    """Whether each picture is nearer to caption ``label`` than to all others of a list: classification by captions."""
    return similarities(image, captions).argmax(axis=-1) == label
