"""Arrays of a batch that several tasks share: pixels, token ids, codes, and sums over counted rows."""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dalle_jax.arrays import COUNTED, Array, ExampleBatch, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.data.seeded_hash import draw
from dalle_jax.images.crops import area_box, crop_image
from dalle_jax.images.pixels import centre_square
from dalle_jax.train.task import Batch, Seed


def pixel_rows(images: list[np.ndarray], size: int) -> np.ndarray:
    """Return images uint8 [H W 3] of any size, center-cropped and resized, as one array uint8 [B size size 3]."""
    square = (size, size)
    return np.stack([image if image.shape[:2] == square else centre_square(image, size) for image in images])


@dataclass(frozen=True)
class ImageFit:
    """The side of rows of pixels, and the least share of an image's area that a random crop keeps.

    A share of 1 crops nothing but the middle square.
    """

    size: int
    crop_area: float = 1.0

    def rows(self, images: Sequence[np.ndarray], seeds: Sequence[Seed] | None) -> UInt8[np.ndarray, "B s s 3"]:
        """Return images uint8 [H W 3] of any size as one array. Crops take ``seeds``, one for each image."""
        if seeds is not None and self.crop_area < 1.0:
            images = [self._cropped(image, seed) for image, seed in zip(images, seeds, strict=True)]
        return pixel_rows(list(images), self.size)

    def _cropped(self, image: UInt8[np.ndarray, "H W 3"], seed: Seed) -> UInt8[np.ndarray, "s s 3"]:
        height, width = image.shape[:2]
        box = area_box(width, height, self.crop_area, random.Random(draw(*seed)))
        return crop_image(Image.fromarray(image), box, self.size)


def pixel_spec(batch_size: int, size: int) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of ``pixel_rows``."""
    return jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)


def text_spec(batch_size: int, length: int) -> jax.ShapeDtypeStruct:
    """Return the shape and dtype of rows of token ids or codes."""
    return jax.ShapeDtypeStruct((batch_size, length), jnp.int32)


def code_rows(examples: ExampleBatch, grid: tuple[int, int], codebook_size: int) -> np.ndarray:
    """Return precomputed codes as int32 [B I]. Raise ``UserError`` if the data has no codes or they do not fit."""
    if "codes" not in examples:
        raise UserError(
            f"data: expected precomputed codes, got examples with {', '.join(sorted(examples))}; to encode images "
            "in the step, give task = @GenerateCodes an image_tokenizer and an image_size"
        )
    rows = [np.asarray(codes).reshape(-1) for codes in examples["codes"]]
    count = math.prod(grid)
    for row in rows:
        if len(row) != count or row.min() < 0 or row.max() >= codebook_size:
            raise UserError(
                f"data: expected {count} codes (task.model.grid {tuple(grid)}) from 0 to {codebook_size - 1}, got "
                f"{len(row)} from {row.min()} to {row.max()}"
            )
    return np.stack(rows).astype(np.int32)


def with_random_codes(
    codes: Int[Array, "B I"], share: float, codebook_size: int, key: Key[Array, ""]
) -> Int[Array, "B I"]:
    """Replace a share of the codes, drawn independently, by codes drawn uniformly from the codebook."""
    if share == 0.0:
        return codes
    which, what = jax.random.split(key)
    drawn = jax.random.randint(what, codes.shape, 0, codebook_size, codes.dtype)
    return jnp.where(jax.random.bernoulli(which, share, codes.shape), drawn, codes)


def check_loss_parts(parts: int, **lengths: int) -> None:
    """Raise ``ValueError`` if ``parts`` ranges do not divide each of the ``lengths``, which are given by name."""
    left = [f"{length} {name}" for name, length in lengths.items() if parts < 1 or length % parts]
    if left:
        raise ValueError(f"loss_parts: expected a divisor of {' and of '.join(left)}, got {parts}")


def summed(values: Float[Array, "B ..."], batch: Batch) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Return the sum and the number of the values, without rows of a padded batch where ``COUNTED`` is False."""
    if COUNTED not in batch:
        return jnp.sum(values), jnp.asarray(values.size, jnp.float32)
    counted = batch[COUNTED][: values.shape[0]].reshape(-1, *(1,) * (values.ndim - 1))  # [B 1 ...]
    each = math.prod(values.shape[1:])
    return jnp.sum(jnp.where(counted, values, 0.0)), jnp.sum(counted, dtype=jnp.float32) * each
