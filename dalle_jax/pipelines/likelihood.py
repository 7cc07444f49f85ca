"""The likelihood of images under a text-to-codes transformer."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Prompts, UInt8
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.code_generator import CodeGenerator
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.batching import in_chunks
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.prompts import Prompt, PromptReader


def _nats(generator: CodeGenerator, text: Prompts, codes: Int[Array, "B I"]) -> Float[Array, " B"]:
    return cross_entropy(generator(text, codes).image, codes).mean(axis=-1)


def _log_likelihoods(generator: CodeGenerator, text: Prompts, codes: Int[Array, "P M I"]) -> Float[Array, "P M"]:
    rows = codes.reshape(-1, codes.shape[-1])  # [P*M I]
    return -_nats(generator, jnp.repeat(text, codes.shape[1], axis=0), rows).reshape(codes.shape[:2])


class CodeLikelihood:
    """The negative log-likelihood of an image's codes given its prompt, for at most ``batch`` images a call."""

    def __init__(
        self,
        generator: CodeGenerator,
        codec: ImageCodec,
        prompts: PromptReader,
        batch: int = 64,
        layout: Layout | None = None,
    ) -> None:
        """Place the transformer by ``layout``, which is one device by default."""
        self._codec, self._prompts, self._batch = codec, prompts, batch
        network = CompiledNetwork(generator, layout)
        self._nats, self._parts = network.jit(_nats), network.parts
        self._log_likelihoods = network.jit(_log_likelihoods)

    def nats(self, pixels: UInt8[np.ndarray, "B H W 3"], prompts: Sequence[Prompt]) -> Float[np.ndarray, " B"]:
        """Return the mean negative log-likelihood per code of each image, in nats."""
        text = self._prompts.read(prompts)  # [B T]

        def call(rows: np.ndarray) -> Float[Array, " B"]:
            codes = self._codec.encode_device(pixels[rows]).reshape(len(rows), -1)
            return self._nats(jnp.asarray(text[rows]), codes)

        return in_chunks(np.arange(len(pixels)), self._batch, self._parts, call)

    def of_codes(self, prompts: Sequence[Prompt], codes: Int[Array | np.ndarray, "P M I"]) -> Float[np.ndarray, "P M"]:
        """Return log p(codes | prompt) / I of M images of each prompt in one call, in nats per code."""
        return np.asarray(self._log_likelihoods(jnp.asarray(self._prompts.read(prompts)), jnp.asarray(codes)))
