"""Edits of an image by a text difference (DALL·E 2, arXiv 2204.06125, section 3.3)."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Unpack

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import (
    EmbeddingEdit,
    EmbeddingEditKeywords,
    between,
    of_length,
    own_side,
    ranked,
    repeat,
    require_editor,
    square_of,
)
from dalle_jax.pipelines.prompted_pipeline import PromptedPipeline
from dalle_jax.pipelines.request import Generation

STRENGTHS = (0.4, 0.5, 0.6)
"""Shares of the way to the difference by default; the paper's are 0.25 to 0.5 (docs/editing.md has ours)."""


def edit(
    pipeline: PromptedPipeline | EmbeddingEditor,
    image: ImageInput,
    from_text: str,
    to_text: str,
    *,
    strength: float | Sequence[float] = STRENGTHS,
    eta: float = 0.0,
    original_size: bool = False,
    **options: Unpack[EmbeddingEditKeywords],
) -> Generation:
    """Change an image from one description toward another; CLIP ranks the results by ``to_text``.

    The image's vector turns toward the normalised difference of the two texts' vectors by the share ``strength``, and
    keeps its length. It is decoded from the image's own noise, into which ``eta`` mixes new noise. Each strength has
    ``candidates`` results (1 by default). They have the model's size, or with ``original_size`` that of the image's
    middle square. Raises UserError for a transformer, and for values out of range.
    """
    options.setdefault("candidates", 1)
    editor = require_editor(pipeline, "edit")
    chosen = EmbeddingEdit.of(editor, options)
    chosen.check_noise(eta)
    strengths = np.atleast_1d(np.asarray(strength, np.float32))
    if not len(strengths) or not ((strengths >= 0) & (strengths <= 1)).all():
        raise UserError(f"strength: expected values between 0 and 1, got {strength}")
    pixels = square_of(editor, image)[None]
    vector = editor.image_vectors(pixels)  # [1 E]
    noise = editor.invert(pixels, vector, chosen.guidance)[0]
    difference = text_differences(editor, [from_text], [to_text])[0]
    if not difference.any():
        raise UserError(f"texts: expected two that differ for CLIP, got {from_text!r} and {to_text!r}")
    count = len(strengths) * chosen.candidates
    shares = np.repeat(strengths, chosen.candidates)
    direction = of_length(difference[None], vector)[0]
    vectors = between(repeat(vector[0], count), repeat(direction, count), shares)
    keys = replace(chosen, candidates=count).keys()
    images = editor.decode(vectors, keys, chosen.guidance, repeat(noise, count), eta)
    side = own_side(image) if original_size else None
    return ranked(editor, images, to_text, chosen.keep, f"{from_text} to {to_text}", side)


def text_differences(editor: EmbeddingEditor, from_texts: list[str], to_texts: list[str]) -> Float[np.ndarray, "B E"]:
    """Return the normalised differences of the vectors of texts; zeros for two that CLIP reads alike."""
    difference = editor.text_vectors(to_texts) - editor.text_vectors(from_texts)
    return difference / np.maximum(np.linalg.norm(difference, axis=1, keepdims=True), 1e-6)
