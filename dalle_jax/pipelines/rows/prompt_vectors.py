"""The CLIP vectors that the decoders of an unCLIP read in slots: of a prior for prompts, or given ones of edits."""

from functools import partial
from typing import NamedTuple, TypeVar

import jax.numpy as jnp

from dalle_jax.arrays import Array, Float
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.embedding_pipeline import (
    EmbeddingPipeline,
    PromptEmbedder,
    PromptIds,
    PromptTexts,
    Sees,
    draw_vectors,
    read_texts,
)
from dalle_jax.pipelines.rows.slot_image import SlotImage

N = TypeVar("N", bound=PromptEmbedder)


class HeldTexts(NamedTuple):
    """The token ids of a prompt, and the text that the prior reads."""

    ids: PromptIds
    texts: PromptTexts


class RowVector(NamedTuple):
    """The vector of an image, and the inputs that its decoder reads."""

    vector: Float[Array, "1 E"]
    sees: Sees


class PromptVectors:
    """The prior of an unCLIP, for one image at a time; a prompt's text is read once."""

    def __init__(self, pipeline: EmbeddingPipeline, network: CompiledNetwork[N]) -> None:
        self._pipeline = pipeline
        self._read = network.jit(read_texts)
        self._draw = network.jit(partial(draw_vectors, options=pipeline.prior))

    def hold(self, prompt: str) -> HeldTexts:
        """Read a prompt."""
        ids = self._pipeline.prompt_ids([prompt])
        return HeldTexts(ids, self._read(ids))

    def of(self, held: HeldTexts, image: SlotImage) -> RowVector:
        """Draw the vector of an image from its key, or return the one that an edit gives, which is decoded alone."""
        if image.vector is not None:
            return RowVector(jnp.asarray(image.vector.vector)[None], "embedding")
        return RowVector(self._draw(held.texts, image.key()[:, None])[:, 0], self._pipeline.sees)
