"""Interpolation between two images or two texts (DALL·E 2, arXiv 2204.06125, section 3.2)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Unpack

import jax.numpy as jnp
import numpy as np
from PIL import Image

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.images.inputs import ImageInput
from dalle_jax.pipelines.edits.embedding_edits import (
    EmbeddingEdit,
    EmbeddingEditKeywords,
    between,
    enlarged,
    own_side,
    require_unclip,
    square_of,
)
from dalle_jax.pipelines.ranker import best_candidates
from dalle_jax.pipelines.request import DEFAULT_KEEP
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.sampling.options import check_ranges


@dataclass(frozen=True)
class Interpolation:
    """The frames of the kept paths, uint8 [k F H W 3], best first, and the share of the second end in each frame.

    ``scores`` is CLIP's mean similarity of the first and the last frame with the texts; None between images.
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
    pipeline: TextToImage | Unclip,
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
    unclip, chosen = require_unclip(pipeline, "interpolate"), EmbeddingEdit(**options)
    chosen.check_noise(eta)
    if len(images) != 2:
        raise UserError(f"images: expected two, got {len(images)}")
    pixels = np.stack([square_of(unclip, one) for one in images])
    vectors = unclip.embedder.image_vectors(pixels)  # [2 E]
    noises = unclip.invert(pixels, vectors, chosen.guidance)  # [2 I c]
    vectors, noises = (np.repeat(one[:, None], chosen.candidates, axis=1) for one in (vectors, noises))  # [2 M …] each
    shares = frame_shares(frames)
    found = frames_between(unclip, vectors, noises, shares, chosen.keys(), chosen.guidance, eta)
    side = own_side(images[0]) if original_size else None
    kept = np.stack([enlarged(path, side) for path in found[_best_paths(found, None, chosen.keep)]])
    return Interpolation("interpolation of two images", kept, shares, None)


def interpolate_texts(
    pipeline: TextToImage | Unclip,
    texts: Sequence[str],
    *,
    frames: int = 8,
    **options: Unpack[EmbeddingEditKeywords],
) -> Interpolation:
    """Interpolate on the sphere between vectors that the prior draws for two texts.

    All frames of a path have the same noise. CLIP ranks the ``candidates`` paths by their first and last frames.
    """
    unclip, chosen = require_unclip(pipeline, "interpolate"), EmbeddingEdit(**options)
    if len(texts) != 2:
        raise UserError(f"texts: expected two, got {len(texts)}")
    keys = chosen.keys()
    vectors = unclip.embed(list(texts), jnp.broadcast_to(keys, (2, chosen.candidates)))  # [2 M E]
    height, width = unclip.grid
    noise = np.asarray(initial_noise(keys, (height * width, unclip.code_width)))  # [M I c]
    shares = frame_shares(frames)
    found = frames_between(unclip, vectors, np.stack([noise, noise]), shares, keys, chosen.guidance)
    ends = [unclip.ranker.similarity(found[:, at], [text])[:, 0] for at, text in zip((0, -1), texts, strict=True)]
    scores = np.mean(ends, axis=0)
    best = _best_paths(found, scores, chosen.keep)
    return Interpolation(" to ".join(texts), found[best], shares, scores[best])


def frames_between(
    unclip: Unclip,
    vectors: Float[np.ndarray, "2 M E"],
    noises: Float[np.ndarray, "2 M I c"],
    shares: Float[np.ndarray, " F"],
    keys: Key[Array, " M"],
    guidance: float,
    eta: float = 0.0,
) -> UInt8[np.ndarray, "M F H W 3"]:
    """Decode the frames of each path; all frames of a path have the same new noise."""
    count = len(keys)
    paths, of_path = np.repeat(np.arange(count), len(shares)), np.tile(shares, count)  # [M*F] each
    vector, noise = (between(ends[0][paths], ends[1][paths], of_path) for ends in (vectors, noises))
    pixels = unclip.decode(vector, keys[paths], guidance, noise, eta)
    return pixels.reshape(count, len(shares), *pixels.shape[1:])


def frame_shares(frames: int) -> Float[np.ndarray, " F"]:
    """Return the share of the second end in each frame. Raise UserError for fewer than two frames."""
    if frames < 2:
        raise UserError(f"frames: expected at least 2, the ends, got {frames}")
    return np.linspace(0, 1, frames, dtype=np.float32)


def _best_paths(
    found: UInt8[np.ndarray, "M F H W 3"], scores: Float[np.ndarray, " M"] | None, keep: int | None
) -> Int[np.ndarray, " k"]:
    kept = min(DEFAULT_KEEP, len(found)) if keep is None else keep
    check_ranges((("keep", 1 <= kept <= len(found), f"between 1 and candidates ({len(found)})", kept),))
    return np.arange(kept) if scores is None else best_candidates(scores[None], kept)[0]
