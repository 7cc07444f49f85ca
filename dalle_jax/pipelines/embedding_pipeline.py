"""Parts of the pipelines whose decoder reads a CLIP image embedding, of codes or of pixels (arXiv 2204.06125).

P prompts   M candidates of each   T text length   E embedding
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple, TypeAlias, TypeVar, get_args

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.models.clip import Clip
from dalle_jax.models.code_denoiser import CodeDenoiser, Guide
from dalle_jax.models.priors.prior import Prior, PriorOptions, TextCondition, read_text
from dalle_jax.pipelines.compiled_network import CompiledNetwork
from dalle_jax.pipelines.prompted_pipeline import DiffusionPipeline
from dalle_jax.pipelines.prompts import TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker

Sees: TypeAlias = Literal["embedding", "caption", "both"]
"""The inputs of the decoder: the image embedding of the prior, the caption alone (GLIDE, arXiv 2112.10741), or both."""


def sees_of(name: str) -> Sees:
    """Return the inputs of that name. Raise UserError for an unknown one."""
    for one in get_args(Sees):
        if one == name:
            return one
    raise UserError(f"sees: expected {', '.join(get_args(Sees))}, got {name}")


class PromptEmbedder(nnx.Module):
    """A prior, and the CLIP whose texts it reads."""

    def __init__(self, prior: Prior, clip: Clip) -> None:
        self.prior, self.clip = nnx.data(prior), clip


class UnclipNetworks(PromptEmbedder):
    """The networks from token ids to codes."""

    def __init__(self, prior: Prior, clip: Clip, decoder: CodeDenoiser) -> None:
        super().__init__(prior, clip)
        self.decoder = decoder


Networks = TypeVar("Networks", bound=PromptEmbedder)


class PromptIds(NamedTuple):
    """Token ids of prompts, cut to the text length of the decoder and of CLIP, and those of the empty text."""

    decoder: Int[Array, "P T"]
    clip: Int[Array, "P T"]
    empty: Int[Array, "1 T"]


class PromptTexts(NamedTuple):
    """The prompts as the prior reads them, and the empty text."""

    given: TextCondition
    empty: TextCondition


def read_texts(networks: PromptEmbedder, ids: PromptIds) -> PromptTexts:
    """Compute what the prior reads of prompts."""
    return PromptTexts(*(read_text(networks.clip, one, networks.prior.unit_vectors) for one in (ids.clip, ids.empty)))


def draw_vectors(
    networks: PromptEmbedder, texts: PromptTexts, keys: Key[Array, "P M"], options: PriorOptions
) -> Float[Array, "P M E"]:
    """Draw an image vector for each candidate, from its own key."""
    prior_keys = jax.vmap(jax.vmap(lambda key: jax.random.fold_in(key, 0)))(keys)
    return networks.prior.draw(texts.given, texts.empty, prior_keys, options)


def embed_prompts(
    networks: PromptEmbedder, ids: PromptIds, keys: Key[Array, "P M"], options: PriorOptions
) -> Float[Array, "P M E"]:
    """Read prompts, and draw an image vector for each candidate."""
    return draw_vectors(networks, read_texts(networks, ids), keys, options)


def given_inputs(ids: PromptIds, embeddings: Float[Array, "P M E"], sees: Sees) -> Guide:
    """Return the embedding, the caption or both of each candidate, as the decoder reads them."""
    prompts, count = embeddings.shape[:2]
    text = jnp.repeat(ids.decoder, count, axis=0)  # [P*M T]
    given = Guide(text, embeddings.reshape(prompts * count, -1), jnp.ones(prompts * count, bool))
    every, none = jnp.ones(prompts * count, bool), jnp.zeros(prompts * count, bool)
    return given.without(every if sees == "embedding" else none, every if sees == "caption" else none)


class EmbeddingPipeline(DiffusionPipeline):
    """A pipeline whose prompts are read twice: by the decoder's text tokenizer, and by the CLIP that embeds them."""

    prompts: TextPrompts
    embedder: ClipRanker
    prior: PriorOptions
    sees: Sees

    @property
    def text_reader(self) -> TextPrompts:
        """The reader of the texts that CLIP embeds."""
        return TextPrompts(self.embedder.text)

    def image_vectors(self, images: UInt8[np.ndarray, "B H W 3"]) -> Float[np.ndarray, "B E"]:
        """Return the CLIP vector of each image."""
        return self.embedder.image_vectors(images)

    def text_vectors(self, texts: Sequence[str]) -> Float[np.ndarray, "n E"]:
        """Return the CLIP vector of each text."""
        return self.embedder.text_vectors(texts)

    def embed(self, prompts: list[str], keys: Key[Array, "P M"]) -> Float[np.ndarray, "P M E"]:
        """Draw an image vector of the prior for each prompt and key."""
        return np.asarray(self._embed(self.prompt_ids(prompts), keys, options=self.prior))

    def _compile_prior(self, network: CompiledNetwork[Networks]) -> None:
        self._embed = network.jit(embed_prompts, static_argnames=("options",))

    def prompt_ids(self, prompts: list[str]) -> PromptIds:
        """Return the token ids of prompts for the decoder and for CLIP."""
        clip = self.embedder.text.encode_batch([*prompts, ""])
        return PromptIds(jnp.asarray(self.prompts.read(prompts)), jnp.asarray(clip[:-1]), jnp.asarray(clip[-1:]))
