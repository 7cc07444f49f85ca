"""CLIP similarity of images and texts, and the choice of the best candidates of a prompt by their scores."""

from collections.abc import Sequence
from typing import TypeAlias, overload

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from dalle_jax.arrays import Array, Float, Int, UInt8
from dalle_jax.images.clip_pixels import Convention, clip_pixels
from dalle_jax.images.clip_pixels_device import clip_pixels_device
from dalle_jax.images.inputs import ImageInput, load_all_pixels
from dalle_jax.images.pixels import to_float
from dalle_jax.models.clip import Clip
from dalle_jax.parallel.layout import Layout, by_rows
from dalle_jax.pipelines.batching import first_rows, in_chunks
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.text.tokenizer import TextTokenizer

Pixels: TypeAlias = Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "B H W 3"] | UInt8[Array, "B H W 3"]
"""Images of different sizes, or an array of images of one size."""

CANDIDATE_COUNTS = (1, 4, 16, 64)
"""Numbers of candidates for which the gain from reranking is reported."""


def best_candidates(scores: Float[np.ndarray, "P M"], keep: int) -> Int[np.ndarray, "P k"]:
    """Return the indices of each prompt's ``keep`` highest scores, best first.

    Of equal scores the smaller index comes first, so the choice is the same on every machine; NaN comes last. Raises
    ValueError if ``keep`` is not between 1 and M.
    """
    available = scores.shape[1]
    if not 1 <= keep <= available:
        raise ValueError(f"keep: expected between 1 and the number of candidates ({available}), got {keep}")
    return np.argsort(-scores, axis=1, kind="stable")[:, :keep]  # numpy sorts NaN last


def choice_among_first(
    scores: Float[np.ndarray, "P M"], counts: Sequence[int] = CANDIDATE_COUNTS
) -> dict[int, Int[np.ndarray, " P"]]:
    """Return each prompt's best candidate among its first n, for every n of ``counts`` up to M.

    Each candidate has its own key, so the first n of M images are the images of a request for n. For n = 1 the choice
    is the first candidate.
    """
    return {n: best_candidates(scores[:, :n], keep=1)[:, 0] for n in counts if n <= scores.shape[1]}


def _score(clip: Clip, pixels: UInt8[Array, "B H W 3"], text: Int[Array, "P T"]) -> Float[Array, "P M"]:
    image = _encode_image(clip, pixels)  # [P*M E]
    words = clip.encode_text(text)  # [P E]
    images = image.reshape(text.shape[0], -1, image.shape[-1])  # [P M E]
    return jnp.einsum("pme,pe->pm", images, words, precision=jax.lax.Precision.HIGHEST)


def _score_rows(clip: Clip, pixels: UInt8[Array, "B H W 3"], texts: Float[Array, "B E"]) -> Float[Array, " B"]:
    vectors = _encode_image(clip, pixels)
    return jnp.einsum("be,be->b", vectors, texts, precision=jax.lax.Precision.HIGHEST)


def _encode_text(clip: Clip, text: Int[Array, "B T"]) -> Float[Array, "B E"]:
    return clip.encode_text(by_rows(text))


def _encode_image(clip: Clip, pixels: UInt8[Array, "B H W 3"]) -> Float[Array, "B E"]:
    fitted = clip_pixels_device(by_rows(pixels), clip.config.image_size, clip.config.crop)
    return clip.encode_image(to_float(fitted))


def _encode_first(
    clip: Clip, pixels: UInt8[Array, "B H W 3"], count: Int[Array | np.ndarray, ""], together: int
) -> Float[Array, "B E"]:
    return first_rows(lambda rows: _encode_image(clip, rows), pixels, count, together)


def preprocessed(images: Pixels, size: int, convention: Convention) -> UInt8[Array, "B S S 3"]:
    """Return images of a CLIP's size S, resized by Pillow: on the devices each size would be compiled."""
    if isinstance(images, np.ndarray | Array) and images.shape[1:3] == (size, size):
        return jnp.asarray(images)
    return jnp.asarray(np.stack([clip_pixels(Image.fromarray(np.asarray(one)), size, convention) for one in images]))


class ClipRanker:
    """A CLIP and its text tokenizer; each function is compiled once per shape.

    Images of other sizes than the CLIP's are preprocessed as in its training.
    """

    def __init__(self, clip: Clip, text: TextTokenizer, batch: int = 64, layout: Layout | None = None) -> None:
        """Place the CLIP by ``layout``, which is one device by default; a call encodes at most ``batch`` rows."""
        self.text, self.batch = text, batch
        self.config = clip.config
        network = CompiledNetwork(clip, layout)
        self._parts = network.parts
        self._score = network.jit(_score)
        self._score_rows = network.jit(_score_rows)
        self._encode_text = network.jit(_encode_text)
        self._encode_image = network.jit(_encode_image)
        self._encode_first = network.jit(_encode_first, static_argnames=("together",))

    @overload
    def rank(self, images: ImageInput | Sequence[ImageInput], text: str) -> Float[np.ndarray, " B"]: ...

    @overload
    def rank(
        self, images: ImageInput | Sequence[ImageInput], text: list[str] | tuple[str, ...]
    ) -> Float[np.ndarray, "B n"]: ...

    def rank(self, images: ImageInput | Sequence[ImageInput], text: str | list[str] | tuple[str, ...]) -> np.ndarray:
        """Return the cosine similarity of images of any sizes with one text [B], or with several [B n]."""
        scores = self.similarity(load_all_pixels(images), [text] if isinstance(text, str) else list(text))
        return scores[:, 0] if isinstance(text, str) else scores

    def scores(self, pixels: UInt8[Array, "B H W 3"], captions: list[str]) -> Float[np.ndarray, "P M"]:
        """Return the cosine similarity of each caption with its own M images; B = P * M."""
        return np.asarray(self._score(pixels, jnp.asarray(self.text.encode_batch(captions))))

    def text_vectors_device(self, rows: Int[np.ndarray, "P T"]) -> Float[Array, "P E"]:
        """Return the unit vector of each text, given as token ids; the vectors stay on the devices."""
        return self._encode_text(jnp.asarray(rows))

    def row_scores_device(self, pixels: UInt8[Array, "B H W 3"], texts: Float[Array, "B E"]) -> Float[Array, " B"]:
        """Return the cosine similarity of each image with its own text vector; they stay on the devices."""
        return self._score_rows(pixels, texts)

    def first_image_vectors(self, pixels: UInt8[Array, "B H W 3"], count: int, together: int) -> Float[Array, "B E"]:
        """Return the unit vectors of the first ``count`` images, ``together`` at a time (``first_rows``)."""
        return self._encode_first(pixels, np.array(count, np.int32), together=together)

    def score_flops(self, images_per_text: float) -> float:
        """Return the FLOPs of the products of an image's score, with its share of its text."""
        size = self.config.image_size
        text = self._encode_text.flops(jnp.zeros((1, self.text.length), jnp.int32))
        image = self._encode_image.flops(jnp.zeros((1, size, size, 3), jnp.uint8))
        return image + text / images_per_text

    def similarity(self, images: Pixels, texts: Sequence[str]) -> Float[np.ndarray, "B n"]:
        """Return the cosine similarity of every image with every text."""
        return self.image_vectors(images) @ self.text_vectors(texts).T

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """Return the unit vector of each text."""
        rows = self.text.encode_batch(list(texts))
        return in_chunks(rows, self.batch, self._parts, lambda chunk: self._encode_text(jnp.asarray(chunk)))

    def image_vectors(self, images: Pixels) -> Float[np.ndarray, "B E"]:
        """Return the unit vector of each image."""
        pixels = np.asarray(self._preprocess(images))
        return in_chunks(pixels, self.batch, self._parts, lambda chunk: self._encode_image(jnp.asarray(chunk)))

    def _preprocess(self, images: Pixels) -> UInt8[Array, "B S S 3"]:
        return preprocessed(images, self.config.image_size, self.config.crop)
