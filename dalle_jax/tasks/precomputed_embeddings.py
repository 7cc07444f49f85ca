"""Batches of precomputed CLIP embeddings, and the CLIP that computed them.

B batch   T text length   E embedding   S width of text states
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax import storage
from dalle_jax.arrays import ExampleBatch, Float
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import AnyManifest, EmbeddingManifest
from dalle_jax.models.clip import Clip
from dalle_jax.models.priors.prior import TextCondition
from dalle_jax.pipelines.encode import fingerprint
from dalle_jax.pipelines.load.models import load_clip
from dalle_jax.pipelines.load.text import text_fingerprint
from dalle_jax.tasks.caption_tokens import CaptionTokenizer
from dalle_jax.train.task import Batch


class EmbeddingsClip(NamedTuple):
    """The CLIP that computed the embeddings of a data set, and its folder."""

    folder: str
    network: Clip


def load_embeddings_clip(
    folder: str | None, captions: CaptionTokenizer, states: bool, manifest: AnyManifest | None
) -> EmbeddingsClip:
    """Load the CLIP in ``folder``, or in the folder that the manifest names if ``folder`` is None.

    Raise ``UserError`` if the data holds no embeddings, or no text states although ``states`` is True. Raise it too if
    the CLIP, or the text tokenizer of ``captions``, is not the one that the data was encoded with.
    """
    if not isinstance(manifest, EmbeddingManifest):
        got = "images" if manifest is None else "codes"
        raise UserError(f"data: expected embeddings, since task.image_size is None, got {got}")
    encoding = manifest.encoding
    if states and not encoding.text_states:
        raise UserError(
            "data: expected embeddings with text states, which task.model reads, got vectors alone; "
            "run `encode` with text_states = True"
        )
    folder = folder or manifest.clip
    place = storage.place(folder)
    if not (place / "model.gin").is_file():
        raise UserError(
            f"task.clip: expected the CLIP that computed the embeddings, found none in {folder}; "
            f"set it to the new folder of the CLIP that was in {manifest.clip}"
        )
    network = load_clip(place)
    for field, found, expected in (
        ("clip", fingerprint(network, "clip"), encoding.clip),
        ("captions", text_fingerprint(captions.files()), encoding.text),
    ):
        if found != expected:
            raise UserError(f"task.{field}: expected {expected}, which computed the embeddings, got {found}")
    return EmbeddingsClip(folder, network)


def vector_spec(rows: int, width: int, length: int, text_width: int | None) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes and dtypes of ``vector_rows``."""
    spec = {name: jax.ShapeDtypeStruct((rows, width), jnp.float16) for name in ("image_vector", "text_vector")}
    if text_width is None:
        return spec
    states = jax.ShapeDtypeStruct((rows, length, text_width), jnp.float16)
    return spec | {"text_states": states, "text_mask": jax.ShapeDtypeStruct((rows, length), bool)}


def vector_rows(examples: ExampleBatch, length: int, text_width: int | None) -> dict[str, np.ndarray]:
    """Return vectors [B E] and, unless ``text_width`` is None, padded states [B T S] and their mask [B T].

    Raise ``UserError`` if the examples have no embeddings.
    """
    if "image_vector" not in examples or "text_vector" not in examples:
        raise UserError(f"data: expected precomputed embeddings, got examples with {', '.join(sorted(examples))}")
    rows = {"image_vector": np.stack(examples["image_vector"]), "text_vector": np.stack(examples["text_vector"])}
    if text_width is None:
        return rows
    states = np.zeros((len(examples["key"]), length, text_width), np.float16)
    mask = np.zeros(states.shape[:2], bool)
    for row, one in enumerate(examples["text_states"]):
        states[row, : len(one)], mask[row, : len(one)] = one, True
    return rows | {"text_states": states, "text_mask": mask}


def image_and_text(batch: Batch) -> tuple[Float[jax.Array, "B E"], TextCondition]:
    """Return the image vectors of a batch and its texts, in float32. Without states, a text has none."""
    image, vector = (batch[name].astype(jnp.float32) for name in ("image_vector", "text_vector"))
    if "text_states" not in batch:
        return image, no_states(vector)
    return image, TextCondition(batch["text_states"].astype(jnp.float32), vector, batch["text_mask"])


def no_states(vector: Float[jax.Array, "B E"]) -> TextCondition:
    """Return texts of which only the vectors are known, with T = 0."""
    rows = vector.shape[0]
    return TextCondition(jnp.zeros((rows, 0, 0)), vector, jnp.zeros((rows, 0), bool))
