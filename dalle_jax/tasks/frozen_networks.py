"""Frozen networks of a task: networks that losses use and that are not trained, by name."""

from typing import cast

from flax import nnx

from dalle_jax import storage
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


def image_tokenizer_of(frozen: Frozen) -> ImageTokenizer:
    """Return the image tokenizer among the frozen networks."""
    return cast(ImageTokenizer, frozen[IMAGE_TOKENIZER])
