"""The hook for a check of prompts and of images, and one example by CLIP. Nothing is checked by default."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.ranker import Pixels
from dalle_jax.storage import Place
from dalle_jax.untrusted import read_text_file


class Unsafe(Exception):
    """A prompt or an image that a filter refuses; the text is told to the client."""


@runtime_checkable
class SafetyFilter(Protocol):
    """A check of prompts and images. Both methods raise ``Unsafe``; they may be called on any thread."""

    def check_prompt(self, prompt: str) -> None:
        """Check a prompt before it is drawn."""
        ...

    def check_image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Check an image before it is returned."""
        ...


@runtime_checkable
class Embedder(Protocol):
    """A CLIP: ``ClipRanker``."""

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """Return the unit vector of each text."""
        ...

    def image_vectors(self, images: Pixels) -> Float[np.ndarray, "B E"]:
        """Return the unit vector of each image."""
        ...


class NoFilter:
    """The default: nothing is refused."""

    def check_prompt(self, prompt: str) -> None:
        """Accept the prompt."""
        del prompt

    def check_image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Accept the image."""
        del pixels


class ConceptFilter:
    """An example: words that no prompt may have, and images that CLIP finds near a text of them.

    ``threshold`` is the cosine similarity from which an image is refused. It depends on the CLIP, so measure it on
    images of both kinds first.
    """

    def __init__(self, concepts: Sequence[str], ranker: Embedder | None = None, threshold: float = 1.0) -> None:
        self._concepts = [one.casefold() for one in concepts]
        self._ranker, self._threshold = ranker, threshold
        self._vectors = None if ranker is None else ranker.text_vectors(list(concepts))  # [n E]

    def check_prompt(self, prompt: str) -> None:
        """Refuse a prompt that contains one of the concepts."""
        folded = " ".join(prompt.casefold().split())
        if any(one in folded for one in self._concepts):
            raise Unsafe("the prompt names something that this server does not draw")

    def check_image(self, pixels: UInt8[np.ndarray, "H W 3"]) -> None:
        """Refuse an image that is as similar to a concept as the threshold."""
        if self._ranker is None or self._vectors is None:
            return
        similar = self._ranker.image_vectors(pixels[None]) @ self._vectors.T  # [1 n]
        if float(similar.max()) >= self._threshold:
            raise Unsafe("the image shows something that this server does not return")


def read_concepts(place: Place) -> list[str]:
    """Read one concept per line; lines that open with # are comments."""
    lines = [line.strip() for line in read_text_file(place).splitlines()]
    found = [line for line in lines if line and not line.startswith("#")]
    if not found:
        raise UserError(f"{place}: expected a concept per line, got none")
    return found
