"""Frozen networks of a task: networks that losses use and that are not trained, by name."""

from typing import cast

from flax import nnx

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.pipelines.load.models import load_image_tokenizer
from dalle_jax.train.task import Frozen

IMAGE_TOKENIZER = "image_tokenizer"
LPIPS = "lpips"
CLIP = "clip"


def load_if_named(folder: str | None) -> ImageTokenizer | None:
    """Load the image tokenizer of a folder, or return None if the config names no folder."""
    return None if folder is None else load_image_tokenizer(storage.place(folder))


def frozen_image_tokenizer(tokenizer: ImageTokenizer | None) -> Frozen:
    """Return the frozen networks of a task: its image tokenizer, or nothing if ``tokenizer`` is None."""
    return {} if tokenizer is None else {IMAGE_TOKENIZER: cast(nnx.Module, tokenizer)}


def check_clip(clip: Clip | None, embed_width: int, image_size: int, size_field: str, folder: str | None) -> None:
    """Raise ``UserError`` if there is a CLIP and its vectors or images have other sizes than the model's.

    ``size_field`` is the field that gives ``image_size``, and ``folder`` that of the CLIP.
    """
    if clip is None:
        return
    found, expected = (clip.config.embed_width, clip.config.image_size), (embed_width, image_size)
    if found != expected:
        raise UserError(
            f"task.clip: expected a CLIP with embed_width and image_size {expected}, as task.model.embed_width and "
            f"task.{size_field} say, got {found} in {folder}"
        )


def image_tokenizer_of(frozen: Frozen) -> ImageTokenizer:
    """Return the image tokenizer among the frozen networks."""
    return cast(ImageTokenizer, frozen[IMAGE_TOKENIZER])
