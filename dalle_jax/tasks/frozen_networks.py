"""The networks that losses read and nothing trains, by name."""

from typing import cast

from flax import nnx

from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.train.task import Frozen

IMAGE_TOKENIZER = "image_tokenizer"
LPIPS = "lpips"


def frozen_image_tokenizer(tokenizer: ImageTokenizer | None) -> Frozen:
    """Return the frozen networks of a task that reads an image tokenizer, if it has one."""
    return {} if tokenizer is None else {IMAGE_TOKENIZER: cast(nnx.Module, tokenizer)}


def image_tokenizer_of(frozen: Frozen) -> ImageTokenizer:
    """Return the image tokenizer among the frozen networks."""
    return cast(ImageTokenizer, frozen[IMAGE_TOKENIZER])
