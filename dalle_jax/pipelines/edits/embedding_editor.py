"""The interface of models that change an image by its CLIP embedding (DALL·E 2, arXiv 2204.06125, section 3).

B images   S their side in pixels   E embedding   P prompts   M vectors of a prompt
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Array, Float, Key, UInt8
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.sampling.options import RecommendedSampling


@runtime_checkable
class EmbeddingEditor(Protocol):
    """An unCLIP: ``Unclip``, ``PixelUnclip`` and ``Karlo``. Its vectors are those that its decoder was trained on."""

    @property
    def side(self) -> int:
        """The side of an image in pixels."""
        ...

    @property
    def ranker(self) -> ClipRanker | None:
        """The CLIP that ranks results, if there is one."""
        ...

    @property
    def recommended(self) -> RecommendedSampling:
        """The publisher's options of sampling."""
        ...

    @property
    def text_reader(self) -> TextPrompts:
        """The reader of the texts that are embedded."""
        ...

    def image_vectors(self, images: UInt8[np.ndarray, "B S S 3"]) -> Float[np.ndarray, "B E"]:
        """Return the vector of each image. Raise UserError if the model has no image encoder."""
        ...

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """Return the vector of each text."""
        ...

    def embed(self, prompts: list[str], keys: Key[Array, "P M"]) -> Float[np.ndarray, "P M E"]:
        """Draw an image vector of the prior for each prompt and key."""
        ...

    def noise(self, keys: Key[Array, " B"]) -> Float[np.ndarray, " B *noise"]:
        """Draw the noise that ``decode`` may begin with."""
        ...

    def invert(
        self, pixels: UInt8[np.ndarray, "B S S 3"], embeddings: Float[np.ndarray, "B E"], guidance: float
    ) -> Float[np.ndarray, " B *noise"]:
        """Return the noise from which ``decode`` makes nearly these images at eta 0 (DDIM inversion)."""
        ...

    def decode(
        self,
        embeddings: Float[np.ndarray, "B E"],
        keys: Key[Array, " B"],
        guidance: float,
        start: Float[np.ndarray, " B *noise"] | None = None,
        eta: float = 0.0,
    ) -> UInt8[np.ndarray, "B S S 3"]:
        """Sample an image of each embedding alone, from the noise ``start``, with the share ``eta`` of new noise."""
        ...
