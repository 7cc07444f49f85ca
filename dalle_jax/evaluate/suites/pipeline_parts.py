"""Protocols of the pipeline parts that suites need (implemented in dalle_jax/pipelines)."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.pipelines.request import Generation, Request


@runtime_checkable
class ImageSampler(Protocol):
    """A model that samples images of prompts (``TextToImage``)."""

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        ...

    def draw(self, requests: list[Request]) -> list[Generation]:
        """Sample images for every request, in order."""
        ...


@runtime_checkable
class Reconstructor(Protocol):
    """An image tokenizer's encoder and decoder (``ImageCodec``)."""

    def reconstruct(self, pixels: UInt8[np.ndarray, "B H W 3"]) -> UInt8[np.ndarray, "B H W 3"]:
        """Encode images and decode their codes."""
        ...


@runtime_checkable
class TextImageEncoder(Protocol):
    """A CLIP's towers (``ClipRanker``)."""

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """Return the unit vector of each text."""
        ...

    def image_vectors(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B E"]:
        """Return the unit vector of each image."""
        ...

    def similarity(self, images: UInt8[np.ndarray, "B H W 3"], texts: Sequence[str]) -> Float[np.ndarray, "B n"]:
        """Return the cosine similarity of every image with every text."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """The likelihood of images given captions (``CodeLikelihood``)."""

    def nats(self, pixels: UInt8[np.ndarray, "B H W 3"], prompts: Sequence[str]) -> Float[np.ndarray, " B"]:
        """Return the mean negative log-likelihood per code of each image, in nats."""
        ...
