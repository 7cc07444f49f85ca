"""Parts of the edits that change an image by its CLIP embedding: options, the input image, and ranked results."""

from dataclasses import dataclass, field
from typing import NamedTuple, TypedDict

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.latent_edit import slerp
from dalle_jax.images.inputs import ImageInput, load_pixels
from dalle_jax.images.pixels import centre_square, resize
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.prompted_pipeline import PromptedPipeline
from dalle_jax.pipelines.ranker import best_candidates
from dalle_jax.pipelines.request import DEFAULT_KEEP, Generation
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.sampling.autoregressive import image_keys
from dalle_jax.sampling.options import GUIDANCE, check_ranges


class EmbeddingEditKeywords(TypedDict, total=False):
    """The fields of ``EmbeddingEdit`` as keyword arguments."""

    candidates: int
    keep: int | None
    seed: int
    guidance: float


@dataclass(frozen=True)
class EmbeddingEdit:
    """Options of an edit. The noise of a candidate depends on ``seed`` and its own number alone.

    Raises UserError for a value out of range. At ``eta`` 0 an edit of an image is deterministic, so that all candidates
    would be the same.
    """

    candidates: int = field(default=4, metadata={"help": "number of results to sample"})
    keep: int | None = field(
        default=None, metadata={"help": f"number of results to keep, best first (default {DEFAULT_KEEP}, or all)"}
    )
    seed: int = field(default=0, metadata={"help": "seed of the noise"})
    guidance: float = field(
        default=GUIDANCE,
        metadata={
            "help": "scale of classifier-free guidance; 1 is off", "default": f"the model folder's, or {GUIDANCE}"
        },
    )  # fmt: skip

    def __post_init__(self) -> None:
        check_ranges(
            (
                ("candidates", 1 <= self.candidates <= 512, "between 1 and 512", self.candidates),
                ("keep", self.keep is None or self.keep >= 1, "at least 1", self.keep),
                ("seed", 0 <= self.seed < 2**32, "in [0, 2^32)", self.seed),
                ("guidance", 0.0 <= self.guidance < float("inf"), "0 or more (1 is off)", self.guidance),
            )
        )

    @classmethod
    def of(cls, editor: EmbeddingEditor, options: EmbeddingEditKeywords) -> "EmbeddingEdit":
        """Return the options, with the guidance that the editor's publisher recommends where none is given."""
        guidance = editor.recommended.guidance
        return cls(**options) if guidance is None else cls(**(EmbeddingEditKeywords(guidance=guidance) | options))

    def keys(self) -> Key[Array, " M"]:
        """Return the key of each candidate."""
        return image_keys(jnp.asarray([self.seed], jnp.uint32), self.candidates)[0]

    def check_noise(self, eta: float) -> None:
        """Raise UserError for an ``eta`` out of range, or for candidates that would all be the same."""
        check_ranges((("eta", 0.0 <= eta <= 1.0, "between 0 and 1", eta),))
        if eta == 0 and self.candidates > 1:
            raise UserError(
                f"candidates: expected 1 at eta 0, where an image has one result, got {self.candidates}; "
                "a larger eta mixes in new noise"
            )


class VectorStarts(NamedTuple):
    """The vector of each result, and the noise that it is decoded from; None for that of its key."""

    vectors: Float[np.ndarray, "M E"]
    start: Float[np.ndarray, " M *noise"] | None


def require_editor(pipeline: PromptedPipeline | EmbeddingEditor, verb: str) -> EmbeddingEditor:
    """Return the pipeline if its decoder reads CLIP embeddings. Raise UserError for any other."""
    if isinstance(pipeline, EmbeddingEditor):
        return pipeline
    expected = f"{verb}: expected an unCLIP, such as the folder of demo-unclip or of an imported Karlo, got a"
    if isinstance(pipeline, TextToImage):
        raise UserError(
            f"{expected} transformer, which decodes no CLIP embedding; it can keep the top of an image and sample the "
            "rest (sample --given-image IMAGE --given-rows SHARE)"
        )
    raise UserError(f"{expected} model that decodes no CLIP embedding ({type(pipeline).__name__})")


def square_of(editor: EmbeddingEditor, image: ImageInput, name: str = "image") -> UInt8[np.ndarray, "H W 3"]:
    """Return the middle square of an image, resized to the model's size."""
    return centre_square(load_pixels(image, name), editor.side)


def own_side(image: ImageInput) -> int:
    """Return the side of the middle square of an image in its own pixels."""
    return min(load_pixels(image).shape[:2])


def between(
    first: Float[np.ndarray, " B *shape"], second: Float[np.ndarray, " B *shape"], shares: Float[np.ndarray, " B"]
) -> Float[np.ndarray, " B *shape"]:
    """Interpolate rows on the sphere: ``first`` at share 0, ``second`` at 1."""
    ends = (jnp.asarray(one, jnp.float32) for one in (first, second, shares))
    return np.asarray(slerp(*ends))


def of_length(vectors: Float[np.ndarray, "B E"], like: Float[np.ndarray, "#B E"]) -> Float[np.ndarray, "B E"]:
    """Scale vectors to the lengths of others; zeros stay."""
    length, wanted = (np.linalg.norm(one, axis=1, keepdims=True) for one in (vectors, like))
    return vectors * (wanted / np.maximum(length, 1e-12))


def repeat(row: np.ndarray, count: int) -> np.ndarray:
    """Repeat one row ``count`` times."""
    return np.repeat(row[None], count, axis=0)


def enlarged(images: UInt8[np.ndarray, "B H W 3"], side: int | None) -> UInt8[np.ndarray, "B S S 3"]:
    """Resize square images to ``side`` pixels; None keeps the model's size."""
    return images if side is None else np.stack([resize(one, side, side) for one in images])


def ranked(
    editor: EmbeddingEditor,
    images: UInt8[np.ndarray, "M H W 3"],
    text: str | None,
    keep: int | None,
    title: str,
    side: int | None = None,
) -> Generation:
    """Return the best of images by CLIP's similarity with ``text``; without a text or a CLIP the first ones.

    They are resized to ``side`` pixels after that; None keeps the model's size.
    """
    count = min(DEFAULT_KEEP, len(images)) if keep is None else keep
    check_ranges((("keep", 1 <= count <= len(images), f"between 1 and the results ({len(images)})", count),))
    scores = None if text is None or editor.ranker is None else editor.ranker.similarity(images, [text])[:, 0]
    best = np.arange(count) if scores is None else best_candidates(scores[None], count)[0]
    kept = None if scores is None else scores[best]
    sized = enlarged(images, side)
    return Generation(title, sized[best], kept, best, sized, scores)
