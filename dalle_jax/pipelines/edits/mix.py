"""Images joined by their CLIP embeddings and changed by a text: edits without a mask (arXiv 2204.06125, section 3)."""

from collections.abc import Sequence
from typing import Unpack

import numpy as np

from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import (
    EmbeddingEdit,
    EmbeddingEditKeywords,
    between,
    ranked,
    repeat,
    require_editor,
    square_of,
)
from dalle_jax.pipelines.edits.vary import STRENGTH, turned_to_texts, vary
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
    turn = STRENGTH if strength is None else strength
    if len(images) == 1:
        return vary(editor, images[0], text=text, strength=turn, **options)
    chosen = EmbeddingEdit.of(editor, options)
    check_ranges((("strength", 0.0 <= turn <= 1.0, "between 0 and 1", turn),))
    vectors = editor.image_vectors(np.stack([square_of(editor, one) for one in images]))  # [n E]
    joined = vectors[:1]
    for count, one in enumerate(vectors[1:], start=2):
        joined = between(joined, one[None], np.full(1, 1 / count, np.float32))
    rows = repeat(joined[0], chosen.candidates)
    turned = turned_to_texts(editor, rows, [text] * chosen.candidates, turn, chosen.keys())
    drawn = editor.decode(turned, chosen.keys(), chosen.guidance)
    return ranked(editor, drawn, text, chosen.keep, text)
