"""The protocol of image tokenizers (VQ-VAE, dVAE, VQGAN)."""

from typing import Protocol, runtime_checkable

from dalle_jax.arrays import Array, Float, Int


@runtime_checkable
class ImageTokenizer(Protocol):
    """A discrete autoencoder of images. Pixels are RGB floats in [0, 1], whatever the range of the network is."""

    @property
    def codebook_size(self) -> int:
        """The number of codes, K."""
        ...

    @property
    def downsample(self) -> int:
        """The side in pixels of the square that one code stands for. H and W must be multiples of it."""
        ...

    @property
    def code_vectors(self) -> Float[Array, "K c"]:
        """The decoder's input vector for each code. Codes of similar image content have similar vectors."""
        ...

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """Encode images as codes in [0, K)."""
        ...

    def decode(self, codes: Int[Array, "B h w"]) -> Float[Array, "B H W 3"]:
        """Decode codes to images, clipped to [0, 1]."""
        ...

    def encode_latents(self, pixels: Float[Array, "B H W 3"]) -> Float[Array, "B h w c"]:
        """Encode images as continuous latents: points among the code vectors, before any is chosen. In float32."""
        ...

    def decode_latents(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W 3"]:
        """Decode continuous latents to images, clipped to [0, 1]; a quantizer belongs to the decoder.

        That is the VQ variant of latent diffusion (Rombach et al. 2021, arXiv 2112.10752, section 3.1).
        """
        ...
