"""Images joined by their CLIP embeddings and changed by a text: edits without a mask (arXiv 2204.06125, section 3)."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import (
    EmbeddingEdit,
    EmbeddingEditKeywords,
    VectorStarts,
    between,
    ranked,
    repeat,
    require_editor,
    square_of,
)
from dalle_jax.pipelines.edits.vary import STRENGTH, turned_to_texts, variations
from dalle_jax.pipelines.prompted_pipeline import PromptedPipeline
from dalle_jax.pipelines.request import Generation
from dalle_jax.sampling.options import check_ranges


def mix(
    pipeline: PromptedPipeline | EmbeddingEditor,
    images: Sequence[ImageInput],
    text: str,
    *,
    strength: float | None = None,
    **options: Unpack[EmbeddingEditKeywords],
) -> Generation:
    """Sample images between all ``images`` that turn toward ``text`` by the share ``strength``.

    The images' vectors are averaged on the sphere, each with the same weight. One image alone is varied, from its own
    noise (``vary``); several start from new noise.
    """
    editor = require_editor(pipeline, "edit")
    chosen = EmbeddingEdit.of(editor, options)
    found = mixed(editor, images, text, strength, chosen)
    drawn = editor.decode(
        found.vectors, chosen.keys(), chosen.guidance, found.start, 0.0 if found.start is None else 1.0
    )
    return ranked(editor, drawn, text, chosen.keep, text)


def mixed(
    editor: EmbeddingEditor, images: Sequence[ImageInput], text: str, strength: float | None, chosen: EmbeddingEdit
) -> VectorStarts:
    """Return the vector of each result, and the noise of a single image. Raise UserError for a ``strength`` beyond."""
    turn = STRENGTH if strength is None else strength
    if len(images) == 1:
        return variations(editor, images[0], text, turn, 1.0, chosen)
    check_ranges((("strength", 0.0 <= turn <= 1.0, "between 0 and 1", turn),))
    vectors = editor.image_vectors(np.stack([square_of(editor, one) for one in images]))  # [n E]
    joined = vectors[:1]
    for count, one in enumerate(vectors[1:], start=2):
        joined = between(joined, one[None], np.full(1, 1 / count, np.float32))
    rows = repeat(joined[0], chosen.candidates)
    return VectorStarts(turned_to_texts(editor, rows, [text] * chosen.candidates, turn, chosen.keys()), None)
