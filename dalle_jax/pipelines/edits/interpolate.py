"""Interpolation between two images or two texts (DALL·E 2, arXiv 2204.06125, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from PIL import Image

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.edits.embedding_editor import EmbeddingEditor
from dalle_jax.pipelines.edits.embedding_edits import (
    EmbeddingEdit,
    EmbeddingEditKeywords,
    between,
    enlarged,
    own_side,
    require_editor,
    square_of,
)
from dalle_jax.pipelines.prompted_pipeline import PromptedPipeline
from dalle_jax.pipelines.ranker import ClipRanker, best_candidates
from dalle_jax.pipelines.request import DEFAULT_KEEP
from dalle_jax.sampling.options import check_ranges


@dataclass(frozen=True)
class Interpolation:
    """The frames of the kept paths, uint8 [k F H W 3], best first, and the share of the second end in each frame.

    ``scores`` is CLIP's mean similarity of the first and the last frame with the texts; None between images, and
    without a CLIP.
    """

    title: str
    frames: UInt8[np.ndarray, "k F H W 3"]
    shares: Float[np.ndarray, " F"]
    scores: Float[np.ndarray, " k"] | None

    @property
    def images(self) -> list[Image.Image]:
        """The frames of the best path as Pillow images."""
        return [Image.fromarray(one) for one in self.frames[0]]


def interpolate_images(
    pipeline: PromptedPipeline | EmbeddingEditor,
    images: Sequence[ImageInput],
    *,
    frames: int = 8,
    eta: float = 0.0,
    original_size: bool = False,
    **options: Unpack[EmbeddingEditKeywords],
) -> Interpolation:
    """Interpolate on the sphere between the vectors, and the inverted noises, of two images.

    At ``eta`` 0 there is one path; ``eta`` mixes new noise into each of ``candidates`` paths (1 by default). Frames
    have the model's size, or with ``original_size`` that of the first image's middle square.
    """
    options.setdefault("candidates", 1)
    editor = require_editor(pipeline, "interpolate")
    chosen = EmbeddingEdit.of(editor, options)
    chosen.check_noise(eta)
    if len(images) != 2:
        raise UserError(f"images: expected two, got {len(images)}")
    pixels = np.stack([square_of(editor, one) for one in images])
    vectors = editor.image_vectors(pixels)  # [2 E]
    noises = editor.invert(pixels, vectors, chosen.guidance)  # [2 …]
    vectors, noises = (np.repeat(one[:, None], chosen.candidates, axis=1) for one in (vectors, noises))  # [2 M …] each
    shares = frame_shares(frames)
    found = frames_between(editor, vectors, noises, shares, chosen.keys(), chosen.guidance, eta)
    side = own_side(images[0]) if original_size else None
    kept = np.stack([enlarged(path, side) for path in found[_best_paths(found, None, chosen.keep)]])
    return Interpolation("interpolation of two images", kept, shares, None)


def interpolate_texts(
    pipeline: PromptedPipeline | EmbeddingEditor,
    texts: Sequence[str],
    *,
    frames: int = 8,
    **options: Unpack[EmbeddingEditKeywords],
) -> Interpolation:
    """Interpolate on the sphere between vectors that the prior draws for two texts.

    All frames of a path have the same noise. A CLIP ranks the ``candidates`` paths by their first and last frames.
    """
    editor = require_editor(pipeline, "interpolate")
    chosen = EmbeddingEdit.of(editor, options)
    if len(texts) != 2:
        raise UserError(f"texts: expected two, got {len(texts)}")
    keys = chosen.keys()
    vectors = editor.embed(list(texts), jnp.broadcast_to(keys, (2, chosen.candidates)))  # [2 M E]
    noise = editor.noise(keys)  # [M …]
    shares = frame_shares(frames)
    found = frames_between(editor, vectors, np.stack([noise, noise]), shares, keys, chosen.guidance)
    scores = None if editor.ranker is None else _end_scores(editor.ranker, found, texts)
    best = _best_paths(found, scores, chosen.keep)
    return Interpolation(" to ".join(texts), found[best], shares, None if scores is None else scores[best])


def frames_between(
    editor: EmbeddingEditor,
    vectors: Float[np.ndarray, "2 M E"],
    noises: Float[np.ndarray, " 2 M *noise"],
    shares: Float[np.ndarray, " F"],
    keys: Key[Array, " M"],
    guidance: float,
    eta: float = 0.0,
) -> UInt8[np.ndarray, "M F H W 3"]:
    """Decode the frames of each path; all frames of a path have the same new noise."""
    count = len(keys)
    paths, of_path = np.repeat(np.arange(count), len(shares)), np.tile(shares, count)  # [M*F] each
    vector, noise = (between(ends[0][paths], ends[1][paths], of_path) for ends in (vectors, noises))
    pixels = editor.decode(vector, keys[paths], guidance, noise, eta)
    return pixels.reshape(count, len(shares), *pixels.shape[1:])


def frame_shares(frames: int) -> Float[np.ndarray, " F"]:
    """Return the share of the second end in each frame. Raise UserError for fewer than two frames."""
    if frames < 2:
        raise UserError(f"frames: expected at least 2, the ends, got {frames}")
    return np.linspace(0, 1, frames, dtype=np.float32)


def _end_scores(
    ranker: ClipRanker, found: UInt8[np.ndarray, "M F H W 3"], texts: Sequence[str]
) -> Float[np.ndarray, " M"]:
    """Return CLIP's mean similarity of the first and the last frame of each path with the two texts."""
    ends = [ranker.similarity(found[:, at], [text])[:, 0] for at, text in zip((0, -1), texts, strict=True)]
    return np.mean(ends, axis=0)


def _best_paths(
    found: UInt8[np.ndarray, "M F H W 3"], scores: Float[np.ndarray, " M"] | None, keep: int | None
) -> Int[np.ndarray, " k"]:
    kept = min(DEFAULT_KEEP, len(found)) if keep is None else keep
    check_ranges((("keep", 1 <= kept <= len(found), f"between 1 and candidates ({len(found)})", kept),))
    return np.arange(kept) if scores is None else best_candidates(scores[None], kept)[0]
