"""DALL·E 1's transformer: one stream of text and image tokens (Ramesh et al. 2021, arXiv 2102.12092, section 2.2).

The stream is  <bos> text_0 ... text_{T-1} code_0 ... code_{I-2},  L = T + I long; the output at each position predicts
the next token, so <bos> predicts text_0 and the last text token predicts code_0. The first T + 1 positions are the
context: every image token attends to all of it. Letters: B T I L D N H V K as in arrays.py; C = T + 1.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.layers.attend import Backend
from dalle_jax.layers.attention import SelfAttention
from dalle_jax.layers.attention_masks import Pattern, repeat_kinds
from dalle_jax.layers.code_tokens import CodeTokens
from dalle_jax.layers.embeddings import Embedding, EmbeddingParam, GridEmbedding, broadcast_param
from dalle_jax.layers.head_groups import check_kv_heads
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.mlp import Mlp
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import Remat
from dalle_jax.layers.slot_cache import SlotCache
from dalle_jax.layers.stack import Layered, Stack, dropout, stack_keys
from dalle_jax.models.code_generator import CachedGenerator, Outputs
from dalle_jax.models.prompt_kinds import TokenIds
from dalle_jax.parallel.axes import BATCH, EMBED, POSITIONS, SEQ, VOCAB
from dalle_jax.parallel.layout import constrain


@dataclass(frozen=True)
class DalleConfig:
    """Sizes and options of the network.

    The kinds in ``attention`` repeat over the layers; ``last_attention`` replaces the kind of the last layer. The
    published model has ("row", "column", "row", "row") and "convolutional". ``kernel`` is the odd side of the window of
    convolutional attention. ``dropout`` is the rate on residual branches. ``kv_heads``, a divisor of ``heads``, is the
    number of key and value heads (layers/head_groups.py); by default each head has its own, as published. ``qk_norm``
    normalises queries and keys (layers/attention.py), which the published model does not.

    ``scan`` compiles one layer and loops over all. ``remat`` chooses the activations that a layer stores
    (layers/remat.py) and ``backend`` the implementation of attention in training (layers/attend.py). ``code_width`` is
    the width of the image tokenizer's code vectors; 0, as published, does not use them (layers/code_tokens.py).
    """

    text_vocab: int
    text_length: int
    codebook_size: int
    grid: tuple[int, int]
    width: int
    depth: int
    heads: int
    head_size: int = 64
    kv_heads: int | None = None
    qk_norm: bool = False
    gated: bool = False
    attention: tuple[Literal["full", "row", "column", "convolutional"], ...] = ("full",)
    last_attention: Literal["full", "row", "column", "convolutional"] | None = None
    kernel: int = 11
    dropout: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    backend: Backend = "auto"
    code_width: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_kv_heads("kv_heads", self.kv_heads, self.heads)

    @property
    def pad_id(self) -> int:
        """The token id of padding."""
        return 0

    @property
    def prompt_kind(self) -> TokenIds:
        """The kind of the model's prompts."""
        return TokenIds(self.text_length)

    def build(self, rngs: nnx.Rngs) -> "Dalle":
        """Create the network with newly initialised weights."""
        return Dalle(self, rngs=rngs)


@runtime_checkable
class BlockSizes(Protocol):
    """The config fields that a ``DalleBlock`` reads; ``DalleConfig`` explains them."""

    @property
    def width(self) -> int:
        """The width, D."""

    @property
    def depth(self) -> int:
        """The number of layers."""

    @property
    def heads(self) -> int:
        """The number of heads, N."""

    @property
    def kv_heads(self) -> int | None:
        """The number of key and value heads; None is ``heads``."""

    @property
    def qk_norm(self) -> bool:
        """True if queries and keys are normalised."""

    @property
    def head_size(self) -> int:
        """The width of a head, H."""

    @property
    def gated(self) -> bool:
        """True if the feed-forward networks are gated."""

    @property
    def dropout(self) -> float:
        """The rate of dropout on residual branches."""

    @property
    def backend(self) -> Backend:
        """The implementation of attention in training."""

    @property
    def dtype(self) -> Literal["float32", "bfloat16"]:
        """The dtype of activations."""


class DalleBlock(nnx.Module):
    """A transformer layer: ``x + attention(norm(x))``, then ``x + mlp(norm(x))``."""

    def __init__(self, config: BlockSizes, *, rngs: nnx.Rngs):
        width, dtype = config.width, config.dtype
        branch = nnx.initializers.normal(0.02 / (2 * config.depth) ** 0.5)
        self.rate = config.dropout
        self.attention_norm = LayerNorm(width, dtype=dtype)
        self.attention = SelfAttention(
            width, config.heads, config.head_size, kv_heads=config.kv_heads, qk_norm=config.qk_norm, dtype=dtype,
            backend=config.backend, init_out=branch, rngs=rngs,
        )  # fmt: skip
        self.mlp_norm = LayerNorm(width, dtype=dtype)
        hidden = 4 * width
        self.mlp = Mlp(width, hidden, gated=config.gated, dtype=dtype, init_out=branch, rngs=rngs)

    def __call__(self, x: Float[Array, "B L D"], pattern: Pattern, key: Key[Array, ""] | None) -> Float[Array, "B L D"]:
        """Apply the layer to a whole stream, with dropout if there is a key."""
        keys = (None, None) if key is None else jax.random.split(key)
        x = x + dropout(self.attention(self.attention_norm(x), pattern), self.rate, keys[0])
        x = x + dropout(self.mlp(self.mlp_norm(x)), self.rate, keys[1])
        return constrain(x, BATCH, SEQ, EMBED)

    def prefill(self, x: Float[Array, "P C D"], candidates: int, pattern: Pattern) -> tuple[Array, KvCache]:
        """Apply the layer to the context and return its output with a cache for ``candidates`` images per prompt."""
        out, cache = self.attention.prefill(self.attention_norm(x), candidates, pattern)
        x = x + out
        return x + self.mlp(self.mlp_norm(x)), cache

    def decode(
        self, x: Float[Array, "P M D"], cache: KvCache, pattern: Pattern, index: Int[Array, ""]
    ) -> tuple[Array, tuple[Array, Array]]:
        """Compute the layer's output for code ``index``. Return it with the key and value of the code."""
        out, new = self.attention.decode(self.attention_norm(x), cache, pattern, index)
        x = x + out
        return x + self.mlp(self.mlp_norm(x)), new

    def decode_window(
        self,
        x: Float[Array, "B W D"],
        cache: SlotCache,
        pattern: Pattern,
        index: Int[Array, " B"],
        context: Int[Array, " B"] | None,
        group: Array | None,
    ) -> tuple[Float[Array, "B W D"], SlotCache]:
        """Compute the layer's output for codes ``index`` to ``index + W - 1``, and the cache that holds them."""
        out, cache = self.attention.decode_window(self.attention_norm(x), cache, pattern, index, context, group)
        x = x + out
        return x + self.mlp(self.mlp_norm(x)), cache


class Dalle(CachedGenerator):
    """DALL·E 1's transformer p(text, codes). Implements ``CodeGenerator``."""

    config: DalleConfig

    def __init__(self, config: DalleConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype = config.width, config.dtype
        kinds = repeat_kinds(config.attention, config.last_attention, config.depth)
        self.patterns = tuple(Pattern(kind, config.text_length + 1, config.grid, config.kernel) for kind in kinds)
        self.text_embedding = Embedding(config.text_vocab, width, axis=VOCAB, dtype=dtype, rngs=rngs)
        self.pad_embedding = Embedding(config.text_length, width, axis=POSITIONS, dtype=dtype, rngs=rngs)
        self.text_positions = Embedding(config.text_length, width, axis=POSITIONS, dtype=dtype, rngs=rngs)
        self.bos = EmbeddingParam(jax.random.normal(rngs.params(), (width,)) * 0.02, axes=(EMBED,))
        self.codes = CodeTokens(
            config.codebook_size, width, code_width=config.code_width, bias=True, dtype=dtype, rngs=rngs
        )
        self.code_positions = GridEmbedding(config.grid, width, dtype=dtype, rngs=rngs)
        self.stack = Stack(
            lambda rngs: DalleBlock(config, rngs=rngs), self.patterns, scan=config.scan, remat=config.remat, rngs=rngs
        )
        self.norm = LayerNorm(width, dtype=dtype)
        self.text_head = Linear(
            width, config.text_vocab, axes=(EMBED, VOCAB), dtype=dtype, out_dtype=jnp.float32, rngs=rngs
        )

    def empty(self, text: Int[Array, "P T"]) -> Int[Array, "1 T"]:
        """Return the empty caption, which is all padding, as one row for all prompts."""
        return jnp.full((1, self.config.text_length), self.config.pad_id, text.dtype)

    def embed_text(self, text: Int[Array, "B T"]) -> Float[Array, "B C D"]:
        """Embed <bos> and the text. Padding at position t has the embedding number t of ``pad_embedding``."""
        pads = (text == self.config.pad_id)[..., None]
        tokens = jnp.where(pads, self.pad_embedding.all(text.shape[0]), self.text_embedding(text))
        tokens = tokens + self.text_positions.all(text.shape[0])  # [B T D]
        bos = broadcast_param(self.bos[...][None], text.shape[0], tokens.dtype)  # [B 1 D]
        return jnp.concatenate([bos, tokens], axis=1)

    def outputs(
        self, text: Int[Array, "B T"], codes: Int[Array, "B I"], *, dropout_key: Key[Array, ""] | None = None
    ) -> Outputs:
        """Compute the outputs for all text tokens and codes by teacher forcing, with dropout if there is a key."""
        image = self.codes.embed(codes[:, :-1]) + self.code_positions.all(text.shape[0])[:, :-1]  # [B I-1 D]
        x = constrain(jnp.concatenate([self.embed_text(text), image], axis=1), BATCH, SEQ, EMBED)  # [B L D]
        keys = stack_keys(dropout_key if self.config.dropout else None, self.config.depth)

        def apply(block: DalleBlock, x: Array, pattern: Pattern, key: Array | None) -> tuple[Array, None]:
            return block(x, pattern, key), None

        x = self.norm(self.stack(apply, x, keys)[0])
        split = self.config.text_length
        return Outputs(image=x[:, split:], text=x[:, :split])

    def text_logits(self, x: Float[Array, "B T D"]) -> Float[Array, "B T V"]:
        """Return the logits of text tokens."""
        return self.text_head(x)

    def prefill(self, text: Int[Array, "P T"], candidates: int) -> tuple[Float[Array, "P K"], Layered]:
        """Return the logits of code 0 for each prompt, and a cache without room for codes."""

        def apply(block: DalleBlock, x: Array, pattern: Pattern, _: None) -> tuple[Array, KvCache]:
            return block.prefill(x, candidates, pattern)

        x, caches = self.stack(apply, self.embed_text(text))
        return self.codes.predict(self.norm(x[:, -1])), caches

    def decode(
        self, previous: Int[Array, "P M"], position: Int[Array, ""], cache: Layered
    ) -> tuple[Float[Array, "P M K"], Layered]:
        """Return the logits of code ``position`` >= 1 given code ``position - 1``, and the new cache."""
        index = position - 1
        x = self.codes.embed(previous) + self.code_positions(index)  # [P M D]

        def apply(block: DalleBlock, x: Array, pattern: Pattern, cache: KvCache) -> tuple[Array, tuple[Array, Array]]:
            return block.decode(x, cache, pattern, index)

        x, cache = self.step(apply, x, cache, index)
        return self.codes.predict(self.norm(x)), cache

    def window_outputs(
        self,
        previous: Int[Array, "B W"],
        position: Int[Array, " B"],
        cache: Layered,
        context: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B W D"], Layered]:
        """Return the outputs at codes ``position`` >= 1 to ``position + W - 1``, given the codes before each."""
        index = position - 1
        codes = index[:, None] + jnp.arange(previous.shape[1])
        x = self.codes.embed(previous) + self.code_positions(codes)  # [B W D]

        def change(
            block: DalleBlock, x: Array, pattern: Pattern, cache: SlotCache, group: Array | None
        ) -> tuple[Array, SlotCache]:
            return block.decode_window(x, cache, pattern, index, context, group)

        x, cache = self.stack.update(change, x, cache)
        return self.norm(x), cache
