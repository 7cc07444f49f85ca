"""Variations of an image by its CLIP embedding (DALL·E 2, arXiv 2204.06125, section 3.1)."""

from typing import Unpack

import numpy as np

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import (
    EmbeddingEdit,
    EmbeddingEditKeywords,
    VectorStarts,
    between,
    own_side,
    ranked,
    repeat,
    require_editor,
    square_of,
)
from dalle_jax.pipelines.prompted_pipeline import PromptedPipeline
from dalle_jax.pipelines.request import Generation
from dalle_jax.sampling.options import check_ranges

STRENGTH = 0.75
"""The share of the way to another vector of the prior by default, measured on scenes (docs/editing.md)."""


def vary(
    pipeline: PromptedPipeline | EmbeddingEditor,
    image: ImageInput,
    *,
    text: str | None = None,
    strength: float | None = None,
    eta: float = 1.0,
    original_size: bool = False,
    **options: Unpack[EmbeddingEditKeywords],
) -> Generation:
    """Sample variations of an image: its content and style stay, details change.

    The image's vector is decoded from the image's own noise, into which ``eta`` mixes new noise; at ``eta`` 0 and
    ``strength`` 0 the image comes back, up to a few codes. A ``text`` that describes the image lets go of what it does
    not name: the vector turns toward one that the prior draws for the text, by the share ``strength``. CLIP ranks the
    results by the text. They have the model's size, or with ``original_size`` that of the image's middle square.
    """
    editor = require_editor(pipeline, "vary")
    chosen = EmbeddingEdit.of(editor, options)
    found = variations(editor, image, text, strength, eta, chosen)
    images = editor.decode(found.vectors, chosen.keys(), chosen.guidance, found.start, eta)
    side = own_side(image) if original_size else None
    return ranked(editor, images, text, chosen.keep, text or "variation", side)


def variations(
    editor: EmbeddingEditor,
    image: ImageInput,
    text: str | None,
    strength: float | None,
    eta: float,
    chosen: EmbeddingEdit,
) -> VectorStarts:
    """Return the vector and the noise of each variation. Raise UserError for values out of range."""
    if text is None and strength:
        raise UserError(f"strength: expected a text, for which the prior draws another vector, got {strength} without")
    turn = 0.0 if text is None else STRENGTH if strength is None else strength
    check_ranges((("strength", 0.0 <= turn <= 1.0, "between 0 and 1", turn),))
    if not turn:
        chosen.check_noise(eta)
    pixels = square_of(editor, image)[None]
    vector = editor.image_vectors(pixels)  # [1 E]
    noise = editor.invert(pixels, vector, chosen.guidance)[0]
    vectors = repeat(vector[0], chosen.candidates)
    if text is not None and turn:
        vectors = turned_to_texts(editor, vectors, [text] * chosen.candidates, turn, chosen.keys())
    return VectorStarts(vectors, repeat(noise, chosen.candidates))


def turned_to_texts(
    editor: EmbeddingEditor,
    vectors: Float[np.ndarray, "B E"],
    texts: list[str],
    strength: float,
    keys: Key[Array, " B"],
) -> Float[np.ndarray, "B E"]:
    """Turn each image's vector by ``strength`` toward one that the prior draws for its text, from its key."""
    drawn = editor.embed(texts, keys[:, None])[:, 0]
    return between(vectors, drawn, np.full(len(vectors), strength, np.float32))
