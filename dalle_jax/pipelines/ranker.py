"""A CLIP as it is used: how well images fit texts, each tower compiled once per shape."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, TypeAlias

import jax.numpy as jnp
import numpy as np
from flax import nnx
from PIL import Image

from dalle_jax.arrays import Array, Float, Int, UInt8
from dalle_jax.images.clip_pixels import clip_pixels
from dalle_jax.images.pixels import to_float
from dalle_jax.parallel.layout import jit
from dalle_jax.pipelines.batching import pieces

Pixels: TypeAlias = Sequence[UInt8[np.ndarray, "H W 3"]] | UInt8[np.ndarray, "B H W 3"]
"""Images of any sizes, or an array of images of one."""


class Ranker:
    """Cosines of images and texts. Images of another size than the CLIP's are made its own as it was shown them."""

    def __init__(self, clip: Any, text: Any, batch: int = 64) -> None:
        self.text, self.batch = text, batch
        self.config = clip.config
        self._graph, self._state = nnx.split(clip)

    @cached_property
    def _score(self) -> Any:
        def run(state: Any, pixels: Array, text: Int[Array, "P T"]) -> Float[Array, "P M"]:
            clip = nnx.merge(self._graph, state)
            image = clip.encode_image(to_float(pixels))  # [P*M E]
            words = clip.encode_text(text)  # [P E]
            return jnp.einsum("pme,pe->pm", image.reshape(text.shape[0], -1, image.shape[-1]), words)

        return jit(run)

    @cached_property
    def _read(self) -> Any:
        return jit(lambda state, text: nnx.merge(self._graph, state).encode_text(text))

    @cached_property
    def _see(self) -> Any:
        return jit(lambda state, pixels: nnx.merge(self._graph, state).encode_image(to_float(pixels)))

    def score(self, pixels: UInt8[Array, "B H W 3"], captions: list[str]) -> Float[np.ndarray, "P M"]:
        """The cosine of each caption's M images with it, B = P * M."""
        rows = jnp.asarray(self.text.encode_batch(captions))
        return np.asarray(self._score(self._state, self._shown(pixels), rows))

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """The unit vector of every text."""
        rows = self.text.encode_batch(list(texts))
        found = [np.asarray(self._read(self._state, jnp.asarray(piece))) for piece in pieces(rows, self.batch)]
        return np.concatenate(found)[: len(rows)]

    def image_vectors(self, images: Pixels) -> Float[np.ndarray, "B E"]:
        """The unit vector of every image."""
        shown = np.asarray(self._shown(images))
        found = [np.asarray(self._see(self._state, piece)) for piece in pieces(shown, self.batch)]
        return np.concatenate(found)[: len(shown)]

    def _shown(self, images: Any) -> Any:
        """Images [B S S 3] of the CLIP's own size; those that have it stay where they are."""
        size = self.config.image_size
        if getattr(images, "shape", ())[1:3] == (size, size):
            return images
        return np.stack([clip_pixels(Image.fromarray(np.asarray(one)), size, self.config.crop) for one in images])
