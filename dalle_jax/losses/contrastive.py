"""Contrastive losses of CLIP and SigLIP, and retrieval accuracy, over unit vectors of images and texts.

All functions take a whole batch. Under ``layout.jit`` it is the global batch, so negatives come from all devices.
"""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Int


def same_rows(text: Int[Array, "B T"]) -> Bool[Array, "B B"]:
    """Return the mask of pairs with equal token ids; the diagonal is True."""
    return (text[:, None, :] == text[None, :, :]).all(axis=-1)


def same_caption_group(text: Int[Array, "B T"], caption_group: Int[Array, " B"]) -> Bool[Array, "B B"]:
    """Return the mask of pairs with equal token ids or an equal ``caption_group`` (paraphrases)."""
    return same_rows(text) | (caption_group[:, None] == caption_group[None, :])


def contrastive(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    same: Bool[Array, "B B"] | None = None,
    counted: Bool[Array, " B"] | None = None,
    candidates: Bool[Array, " B"] | None = None,
    wrong: Float[Array, "B n E"] | None = None,
    wrong_images: Float[Array, "B k E"] | None = None,
) -> Float[Array, ""]:
    """Compute CLIP's loss (Radford et al. 2021, arXiv 2103.00020, figure 3), in float32.

    It is the symmetric cross-entropy over the [B B] similarities. ``same`` (symmetric) marks pairs with equivalent
    captions; a caption shared by n images then has a target of 1 / n for each of them. If ``same`` is None, the loss is
    CLIP's own, which treats the other n - 1 images as negatives. Equivalent captions are common in a small grammar, and
    rare among natural captions.

    The mean is over the ``counted`` rows, each of which is compared with the ``candidates``. None means all rows.
    ``wrong`` texts of each image are further texts in its own softmax, and ``wrong_images`` of each text are further
    images in its own. NegCLIP (Yuksekgonul et al. 2022, arXiv
    2210.01936, section 4) compares them with all images; here an image meets its own alone, since a wrong text of one
    image may describe another.
    """
    logits = scale * similarities(image, text)  # [B B]
    same = jnp.eye(logits.shape[0], dtype=bool) if same is None else same
    if candidates is None:
        targets = same / same.sum(axis=-1, keepdims=True)
    else:
        same &= candidates
        targets = same / jnp.maximum(same.sum(axis=-1, keepdims=True), 1)
    halves = []
    for one, rows, others in ((image, logits, wrong), (text, logits.T, wrong_images)):
        among = _among(rows, candidates)
        if others is not None:
            among = jnp.concatenate([among, scale * own_similarities(one, others)], axis=-1)  # [B B+n]
        log_p = jax.nn.log_softmax(among, axis=-1)[:, : rows.shape[1]]
        halves.append(-_mean((targets * log_p).sum(-1), counted))
    of_image, of_text = halves
    return (of_image + of_text) / 2


def text_given_image(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: float | Float[Array, ""],
    same: Bool[Array, "B B"],
) -> Float[Array, ""]:
    """Compute the cross-entropy of each image's text among all texts: the image half of CLIP's loss, in float32."""
    targets = same / same.sum(axis=-1, keepdims=True)
    return -(targets * jax.nn.log_softmax(scale * similarities(image, text), axis=-1)).sum(axis=-1).mean()


def sigmoid(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    scale: Float[Array, ""],
    bias: Float[Array, ""],
    same: Bool[Array, "B B"] | None = None,
    counted: Bool[Array, " B"] | None = None,
    candidates: Bool[Array, " B"] | None = None,
    wrong: Float[Array, "B n E"] | None = None,
    wrong_images: Float[Array, "B k E"] | None = None,
) -> Float[Array, ""]:
    """Compute SigLIP's loss (Zhai et al. 2023, arXiv 2303.15343, equation 1), in float32.

    It is the sum over all pairs of a binary cross-entropy (positive or negative pair), divided by B. ``same`` marks
    pairs with equivalent captions, which are positives too. With ``counted`` and ``candidates`` the pairs consist of
    counted images and candidate captions, and the divisor is the number of counted images. The ``wrong`` texts of each
    image and the ``wrong_images`` of each text are further negative pairs.
    """
    logits = scale * similarities(image, text) + bias  # [B B]
    same = jnp.eye(logits.shape[0], dtype=bool) if same is None else same
    log_likelihoods = jax.nn.log_sigmoid(jnp.where(same, logits, -logits))
    more = jnp.zeros(())
    for one, others in ((image, wrong), (text, wrong_images)):
        if others is not None:
            more += jax.nn.log_sigmoid(-scale * own_similarities(one, others) - bias).sum()
    if counted is None or candidates is None:
        return -(log_likelihoods.sum() + more) / logits.shape[0]
    pairs = counted[:, None] & candidates
    return -jnp.where(pairs, log_likelihoods, 0.0).sum() / counted.sum()


def similarities(image: Float[Array, "B E"], text: Float[Array, "N E"]) -> Float[Array, "B N"]:
    """Compute the cosine similarities of unit vectors, in float32."""
    image, text = image.astype(jnp.float32), text.astype(jnp.float32)
    return jnp.matmul(image, text.T, precision=jax.lax.Precision.HIGHEST)


def own_similarities(one: Float[Array, "B E"], others: Float[Array, "B n E"]) -> Float[Array, "B n"]:
    """Compute the cosine similarities of each unit vector with n of its own, in float32."""
    one, others = one.astype(jnp.float32), others.astype(jnp.float32)
    return jnp.einsum("be,bne->bn", one, others, precision=jax.lax.Precision.HIGHEST)


def retrieval_hits(
    image: Float[Array, "B E"],
    text: Float[Array, "B E"],
    same: Bool[Array, "B B"],
    candidates: Bool[Array, " B"] | None = None,
) -> tuple[Bool[Array, " B"], Bool[Array, " B"]]:
    """Return whether the top-1 caption of each image, and the top-1 image of each caption, is correct (``same``).

    Captions and images are searched among the ``candidates``. None means all rows.
    """
    cosines = similarities(image, text)
    rows = jnp.arange(cosines.shape[0])
    captions, images = _among(cosines, candidates).argmax(axis=1), _among(cosines.T, candidates).argmax(axis=1)
    return same[rows, captions], same[rows, images]


def _among(values: Float[Array, "B N"], candidates: Bool[Array, " N"] | None) -> Float[Array, "B N"]:
    """Replace the columns that are not candidates by the lowest finite number."""
    return values if candidates is None else jnp.where(candidates, values, jnp.finfo(values.dtype).min)


def _mean(values: Float[Array, " B"], counted: Bool[Array, " B"] | None) -> Float[Array, ""]:
    """Return the mean over the counted rows. None means all rows."""
    return values.mean() if counted is None else jnp.where(counted, values, 0.0).sum() / counted.sum()
