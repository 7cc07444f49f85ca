"""An image tokenizer whose images come from a consistency decoder, as DALL·E 3 replaced the decoder of its latents.

K codebook size   c width of a code vector   h w grid   H W pixels
"""

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.models.decoders.consistency_decoder import ConsistencyDecoder
from dalle_jax.models.image_tokenizer import ImageTokenizer


class ConsistencyDecoded(nnx.Module):
    """The encoder and codebook of an image tokenizer, with a consistency decoder. Implements ``ImageTokenizer``.

    All images start from the same noise, so that codes always give the same image.
    """

    def __init__(self, image_tokenizer: ImageTokenizer, decoder: ConsistencyDecoder) -> None:
        """Raise ValueError for a decoder of latents of another width or another downsampling factor."""
        config = decoder.config
        wanted = image_tokenizer.code_vectors.shape[1], image_tokenizer.downsample
        found = config.unet.extra_channels, config.factor
        if wanted != found or config.factor % config.unet.side_multiple:
            raise ValueError(
                f"consistency_decoder: expected one of latents of width {wanted[0]} that cover {wanted[1]} px, a "
                f"multiple of {config.unet.side_multiple}, as the image tokenizer's codes do, got {found[0]} and "
                f"{found[1]} px"
            )
        self.image_tokenizer, self.decoder = nnx.data(image_tokenizer), decoder

    @property
    def codebook_size(self) -> int:
        """The number of codes, K."""
        return self.image_tokenizer.codebook_size

    @property
    def downsample(self) -> int:
        """The side in pixels of the square that one code stands for."""
        return self.image_tokenizer.downsample

    @property
    def code_vectors(self) -> Float[Array, "K c"]:
        """The vector of each code, which the consistency decoder reads."""
        return self.image_tokenizer.code_vectors

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """Encode images by the image tokenizer."""
        return self.image_tokenizer.encode(pixels)

    def decode(self, codes: Int[Array, "B h w"]) -> Float[Array, "B H W 3"]:
        """Decode codes by the consistency decoder."""
        return self.decoder.decode_codes(codes, self.code_vectors, _same_keys(len(codes)))

    def encode_latents(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Encode images as continuous latents by the image tokenizer."""
        return self.image_tokenizer.encode_latents(pixels)

    def decode_latents(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W 3"]:
        """Decode continuous latents by the consistency decoder, without a quantizer."""
        return self.decoder.decode(latents, _same_keys(len(latents)))


def _same_keys(rows: int) -> Key[Array, " B"]:
    return jnp.broadcast_to(jax.random.key(0), (rows,))
