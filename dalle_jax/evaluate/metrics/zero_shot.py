"""Zero-shot classification: a picture is of the class whose captions it is nearest to (arXiv 2103.00020, section 3.1).

Each class is said in several ways (a prompt ensemble): the unit vectors of its captions are averaged and made a unit
vector again. On ImageNet 80 templates gave CLIP 3.5 points more than one (section 3.1.4).
"""

from collections.abc import Callable, Sequence

import numpy as np

from dalle_jax.arrays import Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.shares import Share, share_of

EncodeText = Callable[[list[str]], np.ndarray]
"""Captions to unit vectors [n E]."""

PLACE = "{}"


def wordings(names: Sequence[str], templates: Sequence[str]) -> list[list[str]]:
    """For each class its name in every template; UserError for a template that has no place for it, or two."""
    wrong = [one for one in templates if one.count(PLACE) != 1]
    if wrong or not templates:
        got = repr(wrong[0]) if wrong else "none"
        raise UserError(f"templates: expected texts such as 'a photo of a {PLACE}.', each with one {PLACE}, got {got}")
    return [[template.replace(PLACE, name) for template in templates] for name in names]


def class_vectors(encode: EncodeText, captions: Sequence[Sequence[str]]) -> Float[np.ndarray, "N E"]:
    """A unit vector for each class: the mean of the unit vectors of its captions, made one again.

    All captions are encoded in one call. Raises ValueError for a class without any.
    """
    if any(not own for own in captions):
        raise ValueError("every class needs a caption at least")
    flat = np.asarray(encode([caption for own in captions for caption in own]), np.float32)
    ends = np.cumsum([len(own) for own in captions])
    means = np.stack([part.mean(axis=0) for part in np.split(flat, ends[:-1])])  # [N E]
    return means / np.linalg.norm(means, axis=-1, keepdims=True)


def accuracies(
    image: Float[np.ndarray, "B E"],
    classes: Float[np.ndarray, "N E"],
    labels: Int[np.ndarray, " B"],
    counts: Sequence[int] = (1, 5),
) -> dict[int, Share]:
    """How often the right class is among the nearest 1, 5, ...; counts above the number of classes are left out."""
    order = np.argsort(-(image @ classes.T), axis=1, kind="stable")  # [B N]
    hits = order == labels[:, None]  # [B N]
    return {n: share_of(hits[:, :n].any(axis=1).tolist()) for n in counts if n <= len(classes)}
