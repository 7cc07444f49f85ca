"""The payload of CLIP embeddings: an image vector for each crop, and the text vectors and states of its captions."""

from collections.abc import Iterator, Sequence
from itertools import islice

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.embedding_record import CaptionVectors, encode_embeddings
from dalle_jax.data.precomputed.manifest import EmbeddingEncoding
from dalle_jax.data.source import Example, Source
from dalle_jax.models.clip import Clip
from dalle_jax.models.priors.prior import TextCondition, read_text
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.encode import crop_problems, fingerprint
from dalle_jax.text.tokenizer import TextTokenizer

AT_ONCE = 64
"""Images whose captions are embedded together."""


def embedding_encoding(
    source: Source,
    clip: Clip,
    text: str,
    image_size: int,
    crops: int,
    shard_examples: int,
    text_states: bool,
) -> EmbeddingEncoding:
    """Return all that the embeddings depend on; raise UserError for a wrong image size or number of crops.

    ``text`` is the fingerprint of the text tokenizer.
    """
    config, problems = clip.config, crop_problems(source, crops, shard_examples)
    if image_size != config.image_size:
        problems.insert(0, f"image_size: expected {config.image_size}, the CLIP's, got {image_size}")
    if problems:
        raise UserError("encode: " + "; ".join(problems))
    return EmbeddingEncoding(
        clip=fingerprint(clip, "clip"),
        text=text,
        source=source.fingerprint(),
        examples=len(source),
        crops=crops,
        image_size=image_size,
        embed_width=config.embed_width,
        text_width=config.text.width,
        text_length=config.text_length,
        text_states=text_states,
        shard_examples=shard_examples,
    )


class EmbeddingsPayload:
    """Image vectors of a CLIP, and embeddings of captions. Implements ``Payload``."""

    def __init__(self, clip: Clip, text: TextTokenizer, batch_size: int, text_states: bool, layout: Layout) -> None:
        """Place the CLIP by ``layout``; ``batch_size`` captions are embedded at once.

        ``text_states`` also keeps the states.
        """
        self.network: nnx.Module = clip
        self._text, self._batch_size, self._text_states = text, batch_size, text_states
        self._read = CompiledNetwork(clip, layout).jit(_read)

    def encode(self, network: nnx.Module, pixels: Float[Array, "B H W 3"]) -> Array:
        """Compute the image vectors [B E] of length 1, in float16."""
        assert isinstance(network, Clip)
        return network.encode_image(pixels).astype(jnp.float16)

    def records(self, images: Iterator[list[tuple[Example, np.ndarray]]]) -> Iterator[bytes]:
        """Yield the record of each image (data/precomputed/embedding_record.py)."""
        while group := list(islice(images, AT_ONCE)):
            texts = self._embed([caption for crops in group for example, _ in crops for caption in example["captions"]])
            for crops in group:
                vectors = np.stack([one for _, one in crops])  # [crops E]
                captions = [example["captions"] for example, _ in crops]
                yield encode_embeddings(crops[0][0]["key"], vectors, captions, texts)

    def _embed(self, captions: Sequence[str]) -> dict[str, CaptionVectors]:
        """Embed each different caption once."""
        unique, size = list(dict.fromkeys(captions)), self._batch_size
        found: dict[str, CaptionVectors] = {}
        for start in range(0, len(unique), size):
            batch = unique[start : start + size]
            ids = self._text.encode_batch([*batch, *[""] * (size - len(batch))])
            states, vectors, mask = (np.asarray(one) for one in self._read(jnp.asarray(ids)))
            if self._text_states and not np.isfinite(states).all():
                raise UserError(
                    "text_states: expected states of the text tower in the range of float16, in which they are stored, "
                    "got larger ones; encode with text_states = False"
                )
            for row, caption in enumerate(batch):
                kept = states[row, : mask[row].sum()] if self._text_states else None
                found[caption] = CaptionVectors(vectors[row], kept)
        return found


def _read(clip: Clip, ids: jax.Array) -> TextCondition:
    states, vector, mask = read_text(clip, ids, unit_vectors=True)
    return TextCondition(states.astype(jnp.float16), vector.astype(jnp.float16), mask)
