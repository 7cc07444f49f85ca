"""Examples to the arrays that several tasks have in common."""

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.images.resize import centre_square


def pixel_rows(images: list[np.ndarray], size: int) -> np.ndarray:
    """Pictures uint8 [H W 3] of any size, cropped in the middle and resized, to one array uint8 [B size size 3]."""
    square = (size, size)
    return np.stack([image if image.shape[:2] == square else centre_square(image, size) for image in images])


def pixel_spec(batch_size: int, size: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype of ``pixel_rows``."""
    return jax.ShapeDtypeStruct((batch_size, size, size, 3), jnp.uint8)


def text_spec(batch_size: int, length: int) -> jax.ShapeDtypeStruct:
    """The shape and dtype of token rows."""
    return jax.ShapeDtypeStruct((batch_size, length), jnp.int32)
