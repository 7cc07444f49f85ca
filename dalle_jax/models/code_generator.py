"""What every text-to-codes transformer offers to the sampler: teacher forcing, prefill and one cached step."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Prompts
from dalle_jax.layers import kv_cache
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.code_tokens import CodeTokens
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import for_decoding
from dalle_jax.layers.stack import Apply, Layered, Stack
from dalle_jax.models.prompt_kinds import PromptKind


class Logits(NamedTuple):
    """Float32 logits of teacher forcing; ``text`` is None for a model that predicts no text.

    R >= K: a published table may have rows beyond the codebook, which training knows and drawing never gives.
    """

    image: Float[Array, "B I R"]
    text: Float[Array, "B T V"] | None


@runtime_checkable
class CodeGenerator(Protocol):
    """A transformer p(codes | prompt) in raster order. Caches are values that go in and come out.

    A prompt is what the model was made for (``arrays.Prompts``): token ids for DALL·E, a class or a caption's features
    for LlamaGen.
    """

    @property
    def prompt_kind(self) -> PromptKind:
        """The kind of the prompts: token ids, a class or a caption's features."""
        ...

    def prompt_spec(self, count: int) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of ``count`` prompts: ids [P T], classes [P] or features [P T c]."""
        ...

    @property
    def text_length(self) -> int:
        """T; token ids are padded and features are cut to this length. 1 for classes."""
        ...

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w); I = h * w."""
        ...

    @property
    def codebook_size(self) -> int:
        """K."""
        ...

    def empty(self, text: Prompts) -> Array:
        """The empty prompt, towards which guidance looks: one row for all, or a row for each where they differ."""
        ...

    def __call__(self, text: Prompts, codes: Int[Array, "B I"]) -> Logits:
        """Teacher forcing: ``image[:, i]`` are the logits of code i given the text and the codes before i."""
        ...

    def prefill(self, text: Prompts, candidates: int) -> tuple[Float[Array, "P K"], Any]:
        """Logits of code 0, the same for a prompt's candidates, and a cache that holds each prompt's text once.

        Every array of a cache leads with the prompts axis. It has room for no codes until it is grown.
        """
        ...

    def grow(self, cache: Any, codes: int) -> Any:
        """The same cache with room for the first ``codes`` codes. Small caches are quick to read: grow by stages."""
        ...

    def for_decoding(self, rows: int) -> "CodeGenerator":
        """The same generator, laid out for a loop of ``decode`` with that many images; it may be itself."""
        ...

    def decode(
        self, previous: Int[Array, "P M"], position: Int[Array, ""], cache: Any
    ) -> tuple[Float[Array, "P M K"], Any]:
        """Return the logits of code ``position`` (1 to I - 1) given code ``position - 1``, and the new cache."""
        ...

    def set_code_vectors(self, vectors: Float[Array, "K c"]) -> None:
        """Store the image tokenizer's code vectors; raise ValueError if the config's ``code_width`` is 0."""
        ...

    def fold_code_vectors(self) -> None:
        """Add the networks over code vectors to the tables of codes, in place, so that drawing does not compute them.

        Logits stay the same. A model with ``code_width`` 0 is left as it is.
        """
        ...


class GeneratorSizes(Protocol):
    """The config fields that all transformers of ``CachedGenerator`` share."""

    @property
    def text_length(self) -> int:
        """The length of a prompt, T."""

    @property
    def grid(self) -> tuple[int, int]:
        """The grid of codes (h, w)."""

    @property
    def codebook_size(self) -> int:
        """The number of codes, K."""

    @property
    def prompt_kind(self) -> PromptKind:
        """The kind of the prompts."""


class CachedGenerator(nnx.Module):
    """What transformers whose layers each keep a KvCache have in common: their sizes, a growing cache, its one writer.

    A layer's cache is a KvCache, or a tuple whose field ``codes`` is one.
    """

    config: GeneratorSizes
    codes: CodeTokens
    stack: Stack

    @property
    def prompt_kind(self) -> PromptKind:
        """The kind of the prompts."""
        return self.config.prompt_kind

    def prompt_spec(self, count: int) -> jax.ShapeDtypeStruct:
        """Return the shape and dtype of ``count`` prompts."""
        return self.config.prompt_kind.spec(count)

    def set_code_vectors(self, vectors: Float[Array, "K c"]) -> None:
        """Store the image tokenizer's code vectors."""
        self.codes.set_code_vectors(vectors)

    def fold_code_vectors(self) -> None:
        """Fold the networks over code vectors into the tables of codes."""
        self.codes.fold()

    @property
    def text_length(self) -> int:
        """The length of a prompt, T."""
        return self.config.text_length

    @property
    def grid(self) -> tuple[int, int]:
        """(h, w)."""
        return self.config.grid

    @property
    def codebook_size(self) -> int:
        """K."""
        return self.config.codebook_size

    def grow(self, cache: Layered, codes: int) -> Layered:
        """The same cache with room for the first ``codes`` codes."""
        return self.stack.map(lambda pattern, layer: _of_codes(layer, kv_cache.grow, pattern, codes), cache)

    def for_decoding(self, rows: int) -> "CachedGenerator":
        """The same transformer, laid out for a loop of ``decode`` with that many images."""
        return for_decoding(self, rows)

    def step(
        self, apply: Apply, x: Float[Array, "P M D"], cache: Layered, index: Int[Array, ""]
    ) -> tuple[Float[Array, "P M D"], Layered]:
        """Every layer's step for code ``index``; ``apply`` gives each one's new key and value, which are written."""

        def write(layer: Any, pattern: Pattern, new: tuple[Array, Array], group: Array | None) -> Any:
            return _of_codes(layer, kv_cache.write, pattern, *new, index, group)

        return self.stack.step(apply, write, x, cache)


def _of_codes(layer: Any, change: Callable[..., KvCache], *arguments: Any) -> Any:
    """A layer's cache with that of its codes changed."""
    if isinstance(layer, KvCache):
        return change(layer, *arguments)
    return layer._replace(codes=change(layer.codes, *arguments))
