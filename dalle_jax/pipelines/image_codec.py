"""Images to codes and back, with a trained image tokenizer."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Int, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.images.inputs import ImageInput, load_all_pixels, stack_images
from dalle_jax.images.pixels import to_float, to_uint8
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout, by_rows
from dalle_jax.pipelines.batching import first_rows, in_chunks
from dalle_jax.pipelines.compiled_network import CompiledNetwork


def _encode(network: ImageTokenizer, pixels: UInt8[Array, "B H W 3"]) -> Int[Array, "B h w"]:
    return network.encode(to_float(by_rows(pixels)))


def _decode(network: ImageTokenizer, codes: Int[Array, "B h w"]) -> UInt8[Array, "B H W 3"]:
    return by_rows(to_uint8(network.decode(by_rows(codes))))


def _decode_first(
    network: ImageTokenizer, codes: Int[Array, "B h w"], count: Int[Array | np.ndarray, ""], together: int
) -> UInt8[Array, "B H W 3"]:
    return first_rows(lambda rows: _decode(network, rows), codes, count, together)


class ImageCodec:
    """An image tokenizer's encoder and decoder, each compiled once per shape, for at most ``batch`` images a call."""

    def __init__(self, image_tokenizer: ImageTokenizer, batch: int = 64, layout: Layout | None = None) -> None:
        """Place the tokenizer by ``layout``, which is one device by default."""
        self.codebook_size = image_tokenizer.codebook_size
        self.downsample = image_tokenizer.downsample
        self.batch = batch
        network = CompiledNetwork(image_tokenizer, layout)
        self._parts = network.parts
        self._encode = network.jit(_encode)
        self._decode = network.jit(_decode)
        self._decode_first = network.jit(_decode_first, static_argnames=("together",))

    def encode_device(self, pixels: UInt8[Array, "B H W 3"] | UInt8[np.ndarray, "B H W 3"]) -> Int[Array, "B h w"]:
        """Encode images in one call; the codes stay on the device."""
        return self._encode(jnp.asarray(pixels))

    def decode_device(self, codes: Int[Array, "B h w"]) -> UInt8[Array, "B H W 3"]:
        """Decode codes in one call; the images stay on the device."""
        return self._decode(codes)

    def decode_first(self, codes: Int[Array, "B h w"], count: int, together: int) -> UInt8[Array, "B H W 3"]:
        """Decode the first ``count`` images, ``together`` at a time, in one call (``first_rows``)."""
        return self._decode_first(codes, np.array(count, np.int32), together=together)

    def decode_flops(self, codes: Int[Array, "B h w"]) -> float:
        """Return the FLOPs of the products of ``decode_device``."""
        return self._decode.flops(codes)

    def encode(self, images: ImageInput | Sequence[ImageInput]) -> Int[np.ndarray, "B h w"]:
        """Encode one image, or several of one size.

        Raises UserError if a side is not a multiple of ``downsample``.
        """
        pixels = stack_images(load_all_pixels(images))
        self._check_sides(pixels)
        return in_chunks(pixels, self.batch, self._parts, self.encode_device)

    def decode(self, codes: np.ndarray | Array) -> UInt8[np.ndarray, "B H W 3"]:
        """Decode codes [B h w], or [h w] of one image.

        Raises UserError for codes outside of [0, ``codebook_size``).
        """
        given = np.asarray(codes)
        grids = given[None] if given.ndim == 2 else given
        valid = grids.ndim == 3 and grids.size and np.issubdtype(grids.dtype, np.integer)
        if not valid or grids.min() < 0 or grids.max() >= self.codebook_size:
            limits = f" from {given.min()} to {given.max()}" if valid else ""
            raise UserError(
                f"codes: expected integers [B h w] from 0 to {self.codebook_size - 1}, "
                f"got {given.dtype.name}{list(given.shape)}{limits}"
            )
        rows = grids.astype(np.int32)
        return in_chunks(rows, self.batch, self._parts, lambda chunk: self.decode_device(jnp.asarray(chunk)))

    def reconstruct(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Encode images and decode their codes. Raises UserError as ``encode`` does."""
        self._check_sides(pixels)

        def copy(chunk: np.ndarray) -> Array:
            return self.decode_device(self.encode_device(chunk))

        return in_chunks(pixels, self.batch, self._parts, copy)

    def _check_sides(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> None:
        height, width = pixels.shape[1:3]
        if height % self.downsample or width % self.downsample:
            raise UserError(
                f"images: expected sides that are multiples of {self.downsample} px, got {width} x {height} px"
            )
