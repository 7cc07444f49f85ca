"""DALL·E and its family in JAX: image tokenizers, text-to-image transformers, CLIP, sampling and training."""

import os
from typing import TYPE_CHECKING

from dalle_jax.config.errors import UserError

if TYPE_CHECKING:
    from dalle_jax.pipelines.autoregressive import Pipeline
    from dalle_jax.pipelines.picture_codes import PictureCodes

__version__ = "0.1.0"
__all__ = ["UserError", "load", "load_image_tokenizer"]


def load(
    folder: str | os.PathLike[str],
    *,
    image_tokenizer: str | os.PathLike[str] | None = None,
    clip: str | os.PathLike[str] | None = None,
    batch: int = 64,
) -> "Pipeline":
    """The pipeline of a folder: what ``sample --model`` takes (docs/python.md).

    ``image_tokenizer`` and ``clip`` are folders that take the place of those which the model names, or names none of;
    ``batch`` is how many pictures are drawn in one call at most. Raises UserError where a folder holds something else.
    """
    from dalle_jax import storage
    from dalle_jax.pipelines.load_pipeline import load_pipeline

    tokenizer, ranker = (None if one is None else storage.reachable(one) for one in (image_tokenizer, clip))
    return load_pipeline(storage.reachable(folder), tokenizer, ranker, batch=batch)


def load_image_tokenizer(folder: str | os.PathLike[str], *, batch: int = 64) -> "PictureCodes":
    """The image tokenizer of a folder alone: pictures to codes and back, ``batch`` of them at once."""
    from dalle_jax import storage
    from dalle_jax.pipelines.load import load_image_tokenizer
    from dalle_jax.pipelines.picture_codes import PictureCodes

    return PictureCodes(load_image_tokenizer(storage.reachable(folder)), batch=batch)
