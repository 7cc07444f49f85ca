"""An image tokenizer as it is used: images to codes and back, each way compiled once per shape."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Int, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput, load_all_pixels, stack_images
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.parallel.layout import jit
from dalle_jax.pipelines.batching import pieces


class ImageCodec:
    """Images ⇄ codes of a trained image tokenizer (models/image_tokenizer.py), at most ``batch`` at once."""

    def __init__(self, image_tokenizer: Any, batch: int = 64) -> None:
        self.codebook_size: int = image_tokenizer.codebook_size
        self.downsample: int = image_tokenizer.downsample
        self.batch = batch
        self._graph, self._state = nnx.split(image_tokenizer)

    @cached_property
    def _look(self) -> Any:
        return jit(lambda state, pixels: nnx.merge(self._graph, state).encode(to_float(pixels)))

    @cached_property
    def _paint(self) -> Any:
        return jit(lambda state, codes: to_uint8(nnx.merge(self._graph, state).decode(codes)))

    def look(self, pixels: UInt8[Array, "B H W 3"] | UInt8[np.ndarray, "B H W 3"]) -> Int[Array, "B h w"]:
        """The codes of images in one call, on the device."""
        return self._look(self._state, pixels)

    def paint(self, codes: Int[Array, "B h w"]) -> UInt8[Array, "B H W 3"]:
        """The images of codes in one call, on the device."""
        return self._paint(self._state, codes)

    def encode(self, images: ImageInput | Sequence[ImageInput]) -> Int[np.ndarray, "B h w"]:
        """The codes of one image or of several of one size, whose sides are multiples of ``downsample``.

        Raises UserError for other sizes.
        """
        pixels = stack_images(load_all_pixels(images))
        height, width = pixels.shape[1:3]
        if height % self.downsample or width % self.downsample:
            raise UserError(
                f"images: expected sides that are multiples of {self.downsample} px, got {width} x {height} px"
            )
        codes = [np.asarray(self.look(piece)) for piece in pieces(pixels, self.batch)]
        return np.concatenate(codes)[: len(pixels)]

    def decode(self, codes: np.ndarray | Array) -> UInt8[np.ndarray, "B H W 3"]:
        """The images of codes [B h w] or [h w], each in [0, ``codebook_size``); UserError for others."""
        given = np.asarray(codes)
        grids = given[None] if given.ndim == 2 else given
        fine = grids.ndim == 3 and grids.size and np.issubdtype(grids.dtype, np.integer)
        if not fine or grids.min() < 0 or grids.max() >= self.codebook_size:
            limits = f" from {given.min()} to {given.max()}" if fine else ""
            raise UserError(
                f"codes: expected whole numbers [B h w] from 0 to {self.codebook_size - 1}, "
                f"got {given.dtype.name}{list(given.shape)}{limits}"
            )
        rows = grids.astype(np.int32)
        painted = [np.asarray(self.paint(jnp.asarray(piece))) for piece in pieces(rows, self.batch)]
        return np.concatenate(painted)[: len(rows)]

    def reconstruct(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Images to codes and back."""
        copies = [np.asarray(self.paint(self.look(piece))) for piece in pieces(pixels, self.batch)]
        return np.concatenate(copies)[: len(pixels)]
