"""Uploaded images: their kind is found from their bytes, and their size is checked before they are decoded."""

import numpy as np

from dalle_jax.arrays import Bool
from dalle_jax.config.errors import UserError
from dalle_jax.images.decode import decode_own
from dalle_jax.images.editable import EditableImage, load_editable
from dalle_jax.images.header import BadImage, Limits, read_header, refuse_sparse
from dalle_jax.images.masks import load_mask
from dalle_jax.serve.http.api_errors import ApiError, of_user_error

UPLOADS = Limits(bytes=50_000_000, pixels=4096 * 4096, side=8192)
"""Bounds of an uploaded image."""


def read_upload(content: bytes, name: str) -> EditableImage:
    """Decode an upload to an upright image. Its EXIF data and other metadata are dropped."""
    try:
        header = read_header(content, UPLOADS)
        refuse_sparse(header, len(content))
        return load_editable(decode_own(header), name)
    except BadImage as error:
        raise ApiError(400, f"{name}: {error}", param=name, code="invalid_image") from error
    except UserError as error:
        raise of_user_error(error) from error


def read_mask(content: bytes, image: EditableImage) -> Bool[np.ndarray, "H W"]:
    """Decode a mask of an image: transparent pixels are edited, or white ones in a mask without transparency."""
    try:
        header = read_header(content, UPLOADS)
        refuse_sparse(header, len(content))
        return load_mask(decode_own(header), *image.size)
    except BadImage as error:
        raise ApiError(400, f"mask: {error}", param="mask", code="invalid_image") from error
    except UserError as error:
        raise of_user_error(error) from error
