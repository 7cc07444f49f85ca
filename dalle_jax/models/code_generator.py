"""The protocol of transformers over image codes: teacher forcing, prefill and cached decoding."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar, cast, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key, Prompts, PyTree
from dalle_jax.layers import kv_cache, slot_cache
from dalle_jax.layers.attention import SelfAttention
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.code_tokens import CodeTokens
from dalle_jax.layers.embeddings import Embedding, GridEmbedding
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.slot_cache import SlotCache
from dalle_jax.layers.stack import Apply, Layered, Stack, for_decoding
from dalle_jax.losses.cross_entropy import cross_entropy_in_parts
from dalle_jax.models.heads.forecast_heads import ForecastHeads
from dalle_jax.models.prompt_kinds import PromptKind
from dalle_jax.sampling.forecasts import Forecast
from dalle_jax.sampling.slots import SlotDecoder


class Logits(NamedTuple):
    """Float32 logits of teacher forcing; ``text`` is None for a model that predicts no text.

    R >= K: a published table can have more rows than the codebook has codes. Only training computes their logits.
    """

    image: Float[Array, "B I R"]
    text: Float[Array, "B T V"] | None


class Outputs(NamedTuple):
    """The last norm's outputs of teacher forcing, from which logits are computed; ``text`` is as in ``Logits``."""

    image: Float[Array, "B I D"]
    text: Float[Array, "B T D"] | None


class Nats(NamedTuple):
    """The negative log-likelihood of each code and of each text token; ``text`` is as in ``Logits``.

    ``log_z`` is the log Z of each position, of codes first and then of text tokens (``CrossEntropy``).
    """

    image: Float[Array, "B I"]
    text: Float[Array, "B T"] | None
    log_z: Float[Array, "B L"]


@runtime_checkable
class CodeGenerator(SlotDecoder, Protocol):
    """A transformer p(codes | prompt) that can be trained, and sampled with a cache.

    The prompts (``arrays.Prompts``) of DALL·E are token ids; the prompts of LlamaGen are classes or caption features.
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
        """The length T to which token ids are padded and features are cut; 1 for classes."""
        ...

    def __call__(self, text: Prompts, codes: Int[Array, "B I"]) -> Logits:
        """Compute the logits of teacher forcing; ``image[:, i]`` depends on the prompt and on the codes before i."""
        ...

    def set_code_vectors(self, vectors: Float[Array, "K c"]) -> None:
        """Store the image tokenizer's code vectors; raise ValueError if the config's ``code_width`` is 0."""
        ...

    def fold_code_vectors(self) -> None:
        """Add the networks over code vectors to the tables of codes, in place, so that sampling does not compute them.

        Logits stay the same. A model with ``code_width`` 0 is unchanged.
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


def compute_dtypes(module: nnx.Module) -> dict[str, np.dtype]:
    """Return the dtype of each variable, by dotted path, that is only read after a cast to another dtype.

    Training keeps parameters in float32 and casts them in each product. A network of bfloat16 computes the same to the
    bit, with half the memory and bandwidth, if its matrices are stored in bfloat16. Norms, biases and tables that are
    summed in float32 are left out, and so are tables of codes until the networks over code vectors are folded into
    them. ``module`` may be abstract.
    """
    found: dict[str, np.dtype] = {}
    kept: list[str] = []
    for path, node in nnx.iter_graph(module):
        name = ".".join(map(str, path))
        if isinstance(node, Linear):
            found[f"{name}.kernel"] = node.dtype
        elif isinstance(node, Embedding):
            found[f"{name}.table"] = node.dtype
        elif isinstance(node, GridEmbedding) or (isinstance(node, CodeTokens) and node.read is not None):
            kept.append(f"{name}.")
    return {name: dtype for name, dtype in found.items() if dtype != np.float32 and not name.startswith(tuple(kept))}


def cast_variables(module: nnx.Module, dtypes: Mapping[str, np.dtype]) -> None:
    """Cast variables in place, by dotted path; shardings stay."""
    for path, variable in nnx.to_flat_state(nnx.state(module)):
        dtype = dtypes.get(".".join(map(str, path)))
        if dtype is not None and variable.get_value().dtype != dtype:
            variable.set_value(variable.get_value().astype(dtype))


def prepare_for_sampling(generator: CodeGenerator) -> None:
    """Fold the networks over code vectors into the tables, and store matrices in their compute dtype, in place.

    Logits stay the same.
    """
    generator.fold_code_vectors()
    module = cast(nnx.Module, generator)
    cast_variables(module, compute_dtypes(module))


@dataclass(frozen=True)
class Reduced:
    """Choices of what a step of sampling reads.

    - ``weights``: "int8" stores the matrices of linear layers as int8 with a float32 scale per output (``Linear``).
      None keeps the dtype in which the model computes.
    - ``cache``: "bfloat16" stores keys and values in bfloat16; attention computes in its own dtype. None as above.
    - ``attention``: "xla" or "pallas" computes attention in slots (layers/attend_backends/attend_decode.py); None is
      "auto".
    """

    weights: Literal["int8"] | None = None
    cache: Literal["bfloat16"] | None = None
    attention: Literal["xla", "pallas"] | None = None


def reduce_precision(generator: CodeGenerator, reduced: Reduced) -> None:
    """Apply the choices to a transformer that is prepared for sampling, in place."""
    if reduced.attention is not None:
        for _, node in nnx.iter_graph(cast(nnx.Module, generator)):
            if isinstance(node, SelfAttention):
                node.decode_backend = reduced.attention
    if reduced.weights == "int8":
        for _, node in nnx.iter_graph(cast(nnx.Module, generator)):
            if isinstance(node, Linear):
                node.quantize()
    if isinstance(generator, CachedGenerator):
        generator.cache_dtype = reduced.cache


Generator = TypeVar("Generator", bound=nnx.Module)


class CachedGenerator(nnx.Module):
    """The base class of transformers with one ``KvCache`` per layer.

    The cache of a layer is a ``KvCache``, or a named tuple with a ``KvCache`` in its field ``codes``. ``cache_dtype``
    is that of cached keys and values in sampling; None is the dtype of the model. ``forecast_heads`` guess codes in
    parallel decoding; they are trained after the model, and are no part of its checkpoints.
    """

    config: GeneratorSizes
    codes: CodeTokens
    stack: Stack
    cache_dtype: str | None = None
    forecast_heads: ForecastHeads | None = None

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

    def empty(self, text: Prompts) -> Array:
        """Return the empty prompt of guidance."""
        raise NotImplementedError

    def outputs(self, text: Prompts, codes: Int[Array, "B I"], *, dropout_key: Key[Array, ""] | None = None) -> Outputs:
        """Compute the outputs of teacher forcing, with dropout if there is a key."""
        raise NotImplementedError

    def text_logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the logits of text tokens, for a model that predicts text."""
        raise NotImplementedError

    def __call__(self, text: Prompts, codes: Int[Array, "B I"], *, dropout_key: Key[Array, ""] | None = None) -> Logits:
        """Compute the logits of teacher forcing, with dropout if there is a key."""
        found = self.outputs(text, codes, dropout_key=dropout_key)
        words = None if found.text is None else self.text_logits(found.text)
        return Logits(image=self.codes.predict(found.image), text=words)

    def nats(
        self,
        text: Prompts,
        codes: Int[Array, "B I"],
        *,
        shown: Int[Array, "B I"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
        parts: int = 1,
    ) -> Nats:
        """Compute the negative log-likelihoods of teacher forcing, with logits in ``parts`` ranges of positions.

        ``shown`` holds the codes that the model reads, if they are not the ``codes`` that it is to predict.
        """
        found = self.outputs(text, codes if shown is None else shown, dropout_key=dropout_key)
        image = cross_entropy_in_parts(self.codes.predictor(), found.image, codes, parts)
        if found.text is None:
            return Nats(image.nats, None, image.log_z)
        words = cross_entropy_in_parts(self.text_logits, found.text, text, parts)
        return Nats(image.nats, words.nats, jnp.concatenate([image.log_z, words.log_z], axis=1))

    def window_outputs(
        self,
        previous: Int[Array, "B W"],
        position: Int[Array, " B"],
        cache: Layered,
        context: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B W D"], Layered]:
        """Return the outputs at codes ``position`` >= 1 to ``position + W - 1``, given the codes before each."""
        raise NotImplementedError

    def code_logits(self, outputs: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Return the logits of the codebook's codes."""
        return self.codes.predict(outputs)

    def forecast(self, outputs: Float[Array, "B D"], codes: Int[Array, " B"]) -> Forecast | None:
        """Guess the codes after ``codes`` by the forecasting heads, if there are any."""
        return None if self.forecast_heads is None else self.forecast_heads(outputs, self.codes.embed(codes))

    @property
    def text_length(self) -> int:
        """The length of a prompt, T."""
        return self.config.text_length

    @property
    def grid(self) -> tuple[int, int]:
        """The grid of codes (h, w)."""
        return self.config.grid

    @property
    def codebook_size(self) -> int:
        """The number of codes, K."""
        return self.config.codebook_size

    def grow(self, cache: Layered, codes: int) -> Layered:
        """Grow a cache to the capacity for the first ``codes`` codes."""
        cache = self._in_cache_dtype(self.stack.unrolled(cache))
        return self.stack.map(lambda pattern, layer: _of_codes(layer, kv_cache.grow, pattern, codes), cache)

    def slots(self, cache: Layered, window: int, rows: int) -> Layered:
        """Return a prefilled cache with room for the codes of ``rows`` rows, as ``window_outputs`` takes it."""

        def change(pattern: Pattern, layer: PyTree) -> PyTree:
            return _of_codes(layer, slot_cache.slot_cache, pattern, window, rows)

        return self.stack.map(change, self._in_cache_dtype(self.stack.unrolled(cache)))

    def _in_cache_dtype(self, cache: Layered) -> Layered:
        """Cast the keys and values of a prefilled cache."""
        if self.cache_dtype is None:
            return cache
        return self.stack.map(lambda _, layer: _of_codes(layer, kv_cache.cast_cache, self.cache_dtype), cache)

    def for_decoding(self: Generator, rows: int) -> Generator:
        """Return the transformer, or a copy whose weights are laid out for decoding ``rows`` images at once."""
        return for_decoding(self, rows)

    def step(
        self, apply: Apply, x: Float[Array, "P M D"], cache: Layered, index: Int[Array, ""]
    ) -> tuple[Float[Array, "P M D"], Layered]:
        """Run one step of all layers for code ``index`` and write the new key and value of each into the cache.

        ``apply`` computes the step of one layer and returns the layer's new key and value.
        """

        def write(layer: PyTree, pattern: Pattern, new: tuple[Array, Array], group: Array | None) -> PyTree:
            return _of_codes(layer, kv_cache.write, pattern, *new, index, group)

        return self.stack.step(apply, write, x, cache)


def _of_codes(layer: PyTree, change: Callable[..., KvCache | SlotCache], *arguments: object) -> PyTree:
    """Return a layer's cache whose ``KvCache`` of codes is replaced by ``change(codes, *arguments)``."""
    if isinstance(layer, KvCache):
        return change(layer, *arguments)
    return layer._replace(codes=change(layer.codes, *arguments))
