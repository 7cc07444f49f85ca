"""DALL·E mini's transformer: a BART from text to image codes, with NormFormer norms and gated linear units.

Dayma et al. 2021 (dalle-mini); Shleifer et al. 2021 (NormFormer, arXiv 2110.09456). No biases in matrix products,
learned positions, a norm after the embeddings, a norm without scale before each matrix product, an untied head. The
decoder's input is  <start> code_0 ... code_{I-2}  and its output at i predicts code i. Letters as in arrays.py; R is
the number of rows in the tables of codes, R >= K.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Bool, Float, Int, Key
from dalle_jax.layers.attend import Backend
from dalle_jax.layers.attention import CrossAttention, CrossKeys, SelfAttention
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.code_tokens import CodeTokens
from dalle_jax.layers.embeddings import Embedding, EmbeddingParam, broadcast_param
from dalle_jax.layers.head_groups import check_kv_heads
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.mlp import NormFormerGlu
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import Remat
from dalle_jax.layers.slot_cache import SlotCache, of_group
from dalle_jax.layers.stack import Layered, Stack, dropout, stack_keys
from dalle_jax.models.code_generator import CachedGenerator, Outputs
from dalle_jax.models.prompt_kinds import TokenIds
from dalle_jax.parallel.axes import BATCH, EMBED, POSITIONS, SEQ, VOCAB
from dalle_jax.parallel.layout import constrain


@dataclass(frozen=True)
class DalleBartConfig:
    """Sizes and options of the network; heads must divide the width.

    ``init_std`` is the standard deviation of all initial matrices and tables. ``dropout`` is the rate on residual
    branches. ``scan`` compiles one layer and loops over all. ``remat`` chooses the activations that a layer stores
    (layers/remat.py) and ``backend`` the implementation of the decoder's self-attention in training (layers/attend.py).
    ``code_width`` is the width of the image tokenizer's code vectors; 0, as published, does not use them
    (layers/code_tokens.py). ``decoder_kv_heads``, a divisor of ``decoder_heads``, is the number of key and value heads
    of both attentions of the decoder (layers/head_groups.py); by default each head has its own, as published.

    The published models have ``pad_id`` 1 and ``empty_caption`` (0, 2). Their tables of codes have ``extra_codes`` rows
    beyond the codebook, and ``start_code`` is one of these rows. The defaults suit a text tokenizer with padding 0 and
    an empty caption that is all padding. Without ``start_code`` the decoder's first input is a learned vector.
    """

    text_vocab: int
    text_length: int
    codebook_size: int
    grid: tuple[int, int]
    width: int
    encoder_layers: int
    encoder_heads: int
    encoder_hidden: int
    decoder_layers: int
    decoder_heads: int
    decoder_hidden: int
    decoder_kv_heads: int | None = None
    init_std: float = 0.02
    dropout: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    backend: Backend = "auto"
    code_width: int = 0
    pad_id: int = 0
    empty_caption: tuple[int, ...] = ()
    extra_codes: int = 0
    start_code: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        check_kv_heads("decoder_kv_heads", self.decoder_kv_heads, self.decoder_heads)
        rows = self.codebook_size + self.extra_codes
        if self.extra_codes and self.code_width:
            raise ValueError(
                f"extra_codes: expected 0 with code_width {self.code_width}, since codes beyond the codebook have no "
                f"vectors, got {self.extra_codes}"
            )
        if self.start_code is not None and not 0 <= self.start_code < rows:
            raise ValueError(f"start_code: expected a row from 0 to {rows - 1}, got {self.start_code}")
        if not 0 <= self.pad_id < self.text_vocab:
            raise ValueError(f"pad_id: expected an id from 0 to {self.text_vocab - 1}, got {self.pad_id}")
        if len(self.empty_caption) > self.text_length:
            raise ValueError(
                f"empty_caption: expected at most {self.text_length} ids (text_length), got {len(self.empty_caption)}"
            )

    @property
    def prompt_kind(self) -> TokenIds:
        """The kind of the model's prompts."""
        return TokenIds(self.text_length)

    def build(self, rngs: nnx.Rngs) -> "DalleBart":
        """Create the network with newly initialised weights."""
        return DalleBart(self, rngs=rngs)


class DalleBartEncoderBlock(nnx.Module):
    """An encoder layer: ``x + LN(attention(LN x))``, then ``x + glu(x)``; the GLU has its own norms."""

    def __init__(self, config: DalleBartConfig, *, rngs: nnx.Rngs):
        width, heads, dtype = config.width, config.encoder_heads, config.dtype
        init = nnx.initializers.normal(config.init_std)
        self.rate = config.dropout
        self.attention_norm = LayerNorm(width, scale=False, dtype=dtype)
        self.attention = SelfAttention(width, heads, width // heads, dtype=dtype, init=init, rngs=rngs)
        self.attention_norm_after = LayerNorm(width, dtype=dtype)
        self.glu = NormFormerGlu(width, config.encoder_hidden, dtype=dtype, init=init, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B T D"], mask: Bool[Array, "B T"], key: Key[Array, ""] | None
    ) -> Float[Array, "B T D"]:
        """Apply the layer; all positions attend to the positions where ``mask`` is True."""
        keys = (None, None) if key is None else jax.random.split(key)
        out = self.attention_norm_after(self.attention.bidirectional(self.attention_norm(x), mask))
        x = x + dropout(out, self.rate, keys[0])
        return constrain(x + dropout(self.glu(x), self.rate, keys[1]), BATCH, SEQ, EMBED)


class DalleBartCache(NamedTuple):
    """The cache of one decoder layer: keys and values of the encoded text, and of the codes so far."""

    text: CrossKeys
    codes: KvCache | SlotCache


class DalleBartDecoderBlock(nnx.Module):
    """A decoder layer: causal self-attention, cross-attention to the text and a GLU, each with norms around it."""

    def __init__(self, config: DalleBartConfig, *, rngs: nnx.Rngs):
        width, heads, kv_heads, dtype = config.width, config.decoder_heads, config.decoder_kv_heads, config.dtype
        init = nnx.initializers.normal(config.init_std)
        self.rate = config.dropout
        self.attention_norm = LayerNorm(width, scale=False, dtype=dtype)
        self.attention = SelfAttention(
            width, heads, width // heads, kv_heads=kv_heads, dtype=dtype, backend=config.backend, init=init, rngs=rngs
        )
        self.attention_norm_after = LayerNorm(width, dtype=dtype)
        self.cross_norm = LayerNorm(width, scale=False, dtype=dtype)
        self.cross = CrossAttention(width, heads, width // heads, kv_heads=kv_heads, dtype=dtype, init=init, rngs=rngs)
        self.cross_norm_after = LayerNorm(width, dtype=dtype)
        self.glu = NormFormerGlu(width, config.decoder_hidden, dtype=dtype, init=init, rngs=rngs)

    def read_text(self, x: Array, keys: CrossKeys, key: Key[Array, ""] | None = None) -> Array:
        """Apply cross-attention and the GLU, to a whole stream or to one step."""
        drop = (None, None) if key is None else jax.random.split(key)
        x = x + dropout(self.cross_norm_after(self.cross(self.cross_norm(x), keys)), self.rate, drop[0])
        return x + dropout(self.glu(x), self.rate, drop[1])

    def read_text_in_window(self, x: Array, keys: CrossKeys, context: Int[Array, " B"] | None) -> Array:
        """Apply cross-attention and the GLU to a window of rows, each with the text of its context."""
        x = x + self.cross_norm_after(self.cross.window(self.cross_norm(x), keys, context))
        return x + self.glu(x)

    def __call__(
        self,
        x: Float[Array, "B I D"],
        text: Float[Array, "B T D"],
        mask: Bool[Array, "B T"],
        pattern: Pattern,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "B I D"]:
        """Apply the layer to a whole stream and its encoded text."""
        keys = (None, None) if key is None else jax.random.split(key)
        out = self.attention_norm_after(self.attention(self.attention_norm(x), pattern))
        x = x + dropout(out, self.rate, keys[0])
        return constrain(self.read_text(x, self.cross.keys(text, mask), keys[1]), BATCH, SEQ, EMBED)

    def prefill(
        self, x: Float[Array, "P 1 D"], text: Array, mask: Array, candidates: int, pattern: Pattern
    ) -> tuple[Array, DalleBartCache]:
        """Apply the layer to the start token; return its output and a cache for ``candidates`` images per prompt."""
        out, codes = self.attention.prefill(self.attention_norm(x), candidates, pattern)
        keys = self.cross.keys(text, mask)
        return self.read_text(x + self.attention_norm_after(out), keys), DalleBartCache(keys, codes)

    def decode(
        self, x: Float[Array, "P M D"], cache: DalleBartCache, pattern: Pattern, index: Int[Array, ""]
    ) -> tuple[Array, tuple[Array, Array]]:
        """Compute the layer's output for code ``index``. Return it with the key and value of the code."""
        assert isinstance(cache.codes, KvCache)
        out, new = self.attention.decode(self.attention_norm(x), cache.codes, pattern, index)
        return self.read_text(x + self.attention_norm_after(out), cache.text), new

    def decode_window(
        self,
        x: Float[Array, "B W D"],
        cache: DalleBartCache,
        pattern: Pattern,
        index: Int[Array, " B"],
        context: Int[Array, " B"] | None,
        group: Array | None,
    ) -> tuple[Float[Array, "B W D"], DalleBartCache]:
        """Compute the layer's output for codes ``index`` to ``index + W - 1``, and the cache that holds them."""
        assert isinstance(cache.codes, SlotCache)
        out, codes = self.attention.decode_window(self.attention_norm(x), cache.codes, pattern, index, context, group)
        x = self.read_text_in_window(x + self.attention_norm_after(out), of_group(cache.text, group), context)
        return x, cache._replace(codes=codes)


class DalleBartEncoder(nnx.Module):
    """The text encoder: one vector per token."""

    def __init__(self, config: DalleBartConfig, *, rngs: nnx.Rngs):
        width, dtype, init = config.width, config.dtype, nnx.initializers.normal(config.init_std)
        self.tokens = Embedding(config.text_vocab, width, axis=VOCAB, dtype=dtype, init=init, rngs=rngs)
        self.positions = Embedding(config.text_length, width, axis=POSITIONS, dtype=dtype, init=init, rngs=rngs)
        self.embedding_norm = LayerNorm(width, dtype=dtype)
        self.stack = Stack(
            lambda rngs: DalleBartEncoderBlock(config, rngs=rngs), (None,) * config.encoder_layers, scan=config.scan,
            remat=config.remat, rngs=rngs,
        )  # fmt: skip
        self.norm = LayerNorm(width, scale=False, dtype=dtype)

    def __call__(
        self, text: Int[Array, "B T"], mask: Bool[Array, "B T"], key: Key[Array, ""] | None = None
    ) -> Float[Array, "B T D"]:
        """Encode texts; attention sees only the positions where ``mask`` is True."""
        x = self.embedding_norm(self.tokens(text) + self.positions.all(text.shape[0]))

        def apply(block: DalleBartEncoderBlock, x: Array, _: None, key: Array | None) -> tuple[Array, None]:
            return block(x, mask, key), None

        return self.norm(self.stack(apply, x, stack_keys(key, self.stack.depth))[0])


def text_mask(text: Int[Array, "B T"], pad_id: int) -> Bool[Array, "B T"]:
    """Return a mask that is True at text positions.

    Position 0 is always True, so that attention to an empty caption is defined.
    """
    return (text != pad_id).at[:, 0].set(True)


class DalleBart(CachedGenerator):
    """DALL·E mini's encoder-decoder p(codes | text). Implements ``CodeGenerator``."""

    config: DalleBartConfig

    def __init__(self, config: DalleBartConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype, init = config.width, config.dtype, nnx.initializers.normal(config.init_std)
        self.pattern = Pattern("full", context=1, grid=config.grid)
        self.encoder = DalleBartEncoder(config, rngs=rngs)
        start = init(rngs.params(), (width,), jnp.float32) if config.start_code is None else None
        self.start = nnx.data(None if start is None else EmbeddingParam(start, axes=(EMBED,)))
        self.codes = CodeTokens(
            config.codebook_size + config.extra_codes, width, code_width=config.code_width, bias=False, dtype=dtype,
            init=init, rngs=rngs,
        )  # fmt: skip
        self.positions = Embedding(self.pattern.positions, width, axis=POSITIONS, dtype=dtype, init=init, rngs=rngs)
        self.embedding_norm = LayerNorm(width, dtype=dtype)
        self.stack = Stack(
            lambda rngs: DalleBartDecoderBlock(config, rngs=rngs), (self.pattern,) * config.decoder_layers,
            scan=config.scan, remat=config.remat, rngs=rngs,
        )  # fmt: skip
        self.norm = LayerNorm(width, scale=False, dtype=dtype)

    def empty(self, text: Int[Array, "P T"]) -> Int[Array, "1 T"]:
        """Return the empty caption, as one row for all prompts."""
        row = jnp.full((1, self.config.text_length), self.config.pad_id, text.dtype)
        return row.at[0, : len(self.config.empty_caption)].set(jnp.asarray(self.config.empty_caption, text.dtype))

    def _start(self, rows: int, dtype: DTypeLike) -> Float[Array, "B 1 D"]:
        """Return the decoder's first input."""
        if self.start is not None:
            return broadcast_param(self.start[...][None], rows, dtype)
        return self.codes.embed(jnp.tile(jnp.asarray(self.config.start_code), (rows, 1)))

    def outputs(
        self, text: Int[Array, "B T"], codes: Int[Array, "B I"], *, dropout_key: Key[Array, ""] | None = None
    ) -> Outputs:
        """Compute the outputs for all codes by teacher forcing, with dropout if there is a key."""
        encoder_key, decoder_key = None, None
        if dropout_key is not None and self.config.dropout > 0:
            encoder_key, decoder_key = jax.random.split(dropout_key)
        mask = text_mask(text, self.config.pad_id)
        encoded = self.encoder(text, mask, encoder_key)
        start = self._start(codes.shape[0], encoded.dtype)
        x = jnp.concatenate([start, self.codes.embed(codes[:, :-1])], axis=1)  # [B I D]
        x = x + self.positions.all(codes.shape[0])

        def apply(block: DalleBartDecoderBlock, x: Array, pattern: Pattern, key: Array | None) -> tuple[Array, None]:
            return block(x, encoded, mask, pattern, key), None

        x, _ = self.stack(apply, self.embedding_norm(x), stack_keys(decoder_key, self.stack.depth))
        return Outputs(image=self.norm(x), text=None)

    def prefill(self, text: Int[Array, "P T"], candidates: int) -> tuple[Float[Array, "P K"], Layered]:
        """Return the logits of code 0 for each prompt, and a cache without room for codes."""
        mask = text_mask(text, self.config.pad_id)
        encoded = self.encoder(text, mask)
        x = self._start(text.shape[0], encoded.dtype) + self.positions.all()[:1]

        def apply(block: DalleBartDecoderBlock, x: Array, pattern: Pattern, _: None) -> tuple[Array, DalleBartCache]:
            return block.prefill(x, encoded, mask, candidates, pattern)

        x, caches = self.stack(apply, self.embedding_norm(x))
        return self.code_logits(self.norm(x[:, 0])), caches

    def decode(
        self, previous: Int[Array, "P M"], position: Int[Array, ""], cache: Layered
    ) -> tuple[Float[Array, "P M K"], Layered]:
        """Return the logits of code ``position`` >= 1 given code ``position - 1``, and the new cache."""
        index = position - 1
        x = self.embedding_norm(self.codes.embed(previous) + self.positions(position))  # [P M D]

        def apply(
            block: DalleBartDecoderBlock, x: Array, pattern: Pattern, cache: DalleBartCache
        ) -> tuple[Array, tuple[Array, Array]]:
            return block.decode(x, cache, pattern, index)

        x, cache = self.step(apply, x, cache, index)
        return self.code_logits(self.norm(x)), cache

    def window_outputs(
        self,
        previous: Int[Array, "B W"],
        position: Int[Array, " B"],
        cache: Layered,
        context: Int[Array, " B"] | None = None,
    ) -> tuple[Float[Array, "B W D"], Layered]:
        """Return the outputs at codes ``position`` >= 1 to ``position + W - 1``, given the codes before each."""
        codes = position[:, None] + jnp.arange(previous.shape[1])
        x = self.embedding_norm(self.codes.embed(previous) + self.positions(codes))  # [B W D]

        def change(
            block: DalleBartDecoderBlock,
            x: Array,
            pattern: Pattern,
            cache: DalleBartCache,
            group: Array | None,
        ) -> tuple[Array, DalleBartCache]:
            return block.decode_window(x, cache, pattern, position - 1, context, group)

        x, cache = self.stack.update(change, x, cache)
        return self.norm(x), cache

    def code_logits(self, outputs: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Return the logits of the codebook's codes, without the extra rows."""
        return self.codes.predict(outputs)[..., : self.config.codebook_size]
