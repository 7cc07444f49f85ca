"""What every image tokenizer (VQ-VAE, dVAE, VQGAN) offers to the stages after it."""

from typing import Protocol, runtime_checkable

from dalle_jax.arrays import Array, Float, Int


@runtime_checkable
class ImageTokenizer(Protocol):
    """Images to codes and back. Pixels are RGB floats in [0, 1]; a network with another range converts inside."""

    @property
    def codebook_size(self) -> int:
        """K, the number of codes."""
        ...

    @property
    def downsample(self) -> int:
        """The side of the square of pixels that one code stands for; H and W must be multiples of it."""
        ...

    @property
    def code_vectors(self) -> Float[Array, "K c"]:
        """What stands for each code in front of the decoder: codes that look alike have vectors that are alike."""
        ...

    def encode(self, pixels: Float[Array, "B H W 3"]) -> Int[Array, "B h w"]:
        """The codes of images: values in [0, K)."""
        ...

    def decode(self, codes: Int[Array, "B h w"]) -> Float[Array, "B H W 3"]:
        """Images for codes, clipped to [0, 1]."""
        ...
