"""Protocols of frozen networks that metrics see images with: features, class probabilities, a distance of two images.

Images are uint8 [B H W 3], of any number and of any one size. Each extractor resizes them as its reference does.
Results are float32 numpy arrays.
"""

from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float, UInt8


@runtime_checkable
class FeatureExtractor(Protocol):
    """A frozen network that returns a vector for each image."""

    @property
    def name(self) -> str:
        """The network, a fingerprint of its weights, and its preprocessing.

        An example is ``efficientnet-lite0 sha256:12ab34cd56ef bicubic-224``. Figures of different names must not be
        compared.
        """
        ...

    @property
    def width(self) -> int:
        """The length D of a vector."""
        ...

    def features(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B D"]:
        """Return the vector of each image."""
        ...


@runtime_checkable
class ClassProbabilities(Protocol):
    """A frozen classifier, as the Inception Score needs it."""

    @property
    def name(self) -> str:
        """The network, a fingerprint of its weights, and its preprocessing, as for features."""
        ...

    @property
    def classes(self) -> int:
        """The number C of classes."""
        ...

    def probabilities(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B C"]:
        """Return the probability of each class for each image; a row sums to 1."""
        ...

    def probabilities_of_features(self, features: Float[np.ndarray, "B D"]) -> Float[np.ndarray, "B C"]:
        """Return the probabilities of images whose features are known, at a small part of the cost."""
        ...


@runtime_checkable
class ImageDistance(Protocol):
    """A frozen network that compares two images of one size, such as LPIPS."""

    @property
    def name(self) -> str:
        """The network, a fingerprint of its weights, and its preprocessing, as for features."""
        ...

    def distance(
        self, one: UInt8[np.ndarray, "B H W 3"], other: UInt8[np.ndarray, "B H W 3"]
    ) -> Float[np.ndarray, " B"]:
        """Return the distance of each pair of images; 0 means equal."""
        ...
