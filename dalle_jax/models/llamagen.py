"""LlamaGen's transformer: a Llama over image codes, conditioned on a class or a caption (arXiv 2406.06525).

Sun et al. 2024. The stream is  condition_0 ... condition_{T-1} code_0 ... code_{I-2}; the output at the last condition
predicts code 0. T = 1 for a class. Features of a caption are left-padded with rows of zeros. Pre-norm
blocks without biases: root mean square norms, rotary positions over the grid (layers/rotary.py), SwiGLU. Letters as in
arrays.py; L = T + I - 1; c is the width of a caption's features.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Bool, Float, Int, Key, Prompts
from dalle_jax.layers import kv_cache
from dalle_jax.layers.attend import Backend, dense_attention, stream_attention
from dalle_jax.layers.attention import SelfAttention, step_attention
from dalle_jax.layers.attention_masks import Pattern
from dalle_jax.layers.code_tokens import CodeTokens
from dalle_jax.layers.embeddings import Embedding
from dalle_jax.layers.head_groups import check_kv_heads
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import Initializer, Linear
from dalle_jax.layers.mlp import constrain_hidden
from dalle_jax.layers.norms import RmsNorm
from dalle_jax.layers.remat import Remat, name_attention
from dalle_jax.layers.rotary import grid_rotary_table, rotate
from dalle_jax.layers.slot_cache import SlotCache, of_group, window_attention, write_window
from dalle_jax.layers.stack import Layered, Stack, dropout, stack_keys
from dalle_jax.models.code_generator import CachedGenerator, Outputs
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.parallel.axes import BATCH, EMBED, MLP, POSITIONS, SEQ
from dalle_jax.parallel.layout import constrain


@dataclass(frozen=True)
class LlamaGenConfig:
    """Sizes and options of the network. The width of a head, ``width / heads``, must be a multiple of 4.

    The hidden width of the SwiGLU is the smallest multiple of ``multiple_of`` that is at least 8/3 ``width``.
    ``dropout`` is the rate on residual branches and on the input of the first layer. ``kv_heads``, ``scan``, ``remat``,
    ``backend`` and ``code_width`` are as in DalleConfig. Captions need a padding mask, for which attention is always
    XLA's.
    """

    condition: ByClass | ByCaption
    codebook_size: int
    grid: tuple[int, int]
    width: int
    depth: int
    heads: int
    kv_heads: int | None = None
    multiple_of: int = 256
    init_std: float = 0.02
    dropout: float = 0.0
    scan: bool = False
    remat: Remat = "none"
    backend: Backend = "auto"
    code_width: int = 0
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.width % (4 * self.heads):
            raise ValueError(f"width: expected a multiple of 4 * heads ({4 * self.heads}), got {self.width}")
        check_kv_heads("kv_heads", self.kv_heads, self.heads)

    @property
    def hidden(self) -> int:
        """The hidden width, F."""
        return -(-int(2 * 4 * self.width / 3) // self.multiple_of) * self.multiple_of

    @property
    def text_length(self) -> int:
        """The length of the condition, T."""
        return 1 if isinstance(self.condition, ByClass) else self.condition.length

    @property
    def prompt_kind(self) -> ByClass | ByCaption:
        """The kind of the model's prompts."""
        return self.condition

    def build(self, rngs: nnx.Rngs) -> "LlamaGen":
        """Create the network with newly initialised weights."""
        return LlamaGen(self, rngs=rngs)


class SwiGlu(nnx.Module):
    """A gated linear unit ``W2 (silu(W1 x) * W3 x)`` without biases (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, config: LlamaGenConfig, *, rngs: nnx.Rngs):
        width, hidden, init = config.width, config.hidden, nnx.initializers.normal(config.init_std)
        axes = (EMBED, None, MLP)
        self.up = Linear(width, (2, hidden), axes=axes, bias=False, dtype=config.dtype, init=init, rngs=rngs)
        self.down = Linear(hidden, width, axes=(MLP, EMBED), bias=False, dtype=config.dtype, init=init, rngs=rngs)

    def __call__(self, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        """Apply the unit to the last dimension."""
        hidden = self.up(x)  # [... 2 F]
        return self.down(constrain_hidden(jax.nn.silu(hidden[..., 0, :]) * hidden[..., 1, :]))


class LlamaGenCache(NamedTuple):
    """The cache of one layer. ``seen`` is False at the padding of the condition; None means no padding."""

    codes: KvCache | SlotCache
    seen: Bool[Array, "P T"] | None


class LlamaGenBlock(nnx.Module):
    """A transformer layer: ``x + attention(norm(x))``, then ``x + swiglu(norm(x))``."""

    def __init__(self, config: LlamaGenConfig, *, rngs: nnx.Rngs):
        width, init = config.width, nnx.initializers.normal(config.init_std)
        self.rate = config.dropout
        self.attention_norm = RmsNorm(width, dtype=config.dtype)
        self.attention = SelfAttention(
            width, config.heads, width // config.heads, kv_heads=config.kv_heads, dtype=config.dtype,
            backend=config.backend, init=init, rngs=rngs,
        )  # fmt: skip
        self.mlp_norm = RmsNorm(width, dtype=config.dtype)
        self.mlp = SwiGlu(config, rngs=rngs)

    def _attend(self, x: Array, table: Array, pattern: Pattern, seen: Array | None) -> tuple[Array, Array, Array]:
        """Compute causal self-attention of a stream [B L D]; return it with the keys and values [B G L H]."""
        q, k, v = self.attention.project_qkv(self.attention_norm(x))
        q, k = rotate(q, table), rotate(k, table)  # the table [L h 2] stands before the heads' batch
        if seen is None:
            out = stream_attention(q, k, v, pattern, self.attention.backend)
        else:
            out = dense_attention(q, k, v, _mask(seen, x.shape[1]))
        return self.attention.out(name_attention(out).swapaxes(1, 2)), k, v

    def __call__(
        self,
        x: Float[Array, "B L D"],
        table: Array,
        pattern: Pattern,
        seen: Bool[Array, "B T"] | None,
        key: Key[Array, ""] | None,
    ) -> Float[Array, "B L D"]:
        """Apply the layer to a whole stream, with dropout if there is a key."""
        keys = (None, None) if key is None else jax.random.split(key)
        x = x + dropout(self._attend(x, table, pattern, seen)[0], self.rate, keys[0])
        return constrain(x + dropout(self.mlp(self.mlp_norm(x)), self.rate, keys[1]), BATCH, SEQ, EMBED)

    def prefill(
        self, x: Float[Array, "P T D"], table: Array, pattern: Pattern, seen: Array | None, candidates: int
    ) -> tuple[Array, LlamaGenCache]:
        """Apply the layer to the condition; return its output and a cache for ``candidates`` images per prompt."""
        out, k, v = self._attend(x, table, pattern, seen)
        x = x + out
        return x + self.mlp(self.mlp_norm(x)), LlamaGenCache(kv_cache.new_cache(k, v, candidates, pattern), seen)

    def decode(
        self,
        x: Float[Array, "P M D"],
        table: Array,
        cache: LlamaGenCache,
        pattern: Pattern,
        index: Int[Array, ""],
    ) -> tuple[Array, tuple[Array, Array]]:
        """Compute the layer's output for code ``index``, which has the rotary angles ``table`` [h 2].

        Return it with the key and value of the code.
        """
        q, k, v = self.attention.project_step(self.attention_norm(x))
        q, k = rotate(q, table), rotate(k, table)
        assert isinstance(cache.codes, KvCache)
        out = step_attention(q, k, v, cache.codes, pattern, index, cache.seen)
        x = x + self.attention.out(out)
        return x + self.mlp(self.mlp_norm(x)), kv_cache.order_after(out, k, v)

    def decode_window(
        self,
        x: Float[Array, "B W D"],
        table: Float[Array, "B W 1 h 2"],
        cache: LlamaGenCache,
        pattern: Pattern,
        index: Int[Array, " B"],
        context: Int[Array, " B"] | None,
        group: Array | None,
    ) -> tuple[Float[Array, "B W D"], LlamaGenCache]:
        """Compute the layer's output for codes ``index`` to ``index + W - 1``, and the cache that holds them.

        ``table`` are the rotary angles of the codes.
        """
        q, k, v = self.attention.project(self.attention_norm(x))  # [B W N H], [B W G H]
        q, k = rotate(q, table), rotate(k, table)
        assert isinstance(cache.codes, SlotCache)
        seen, backend = of_group(cache.seen, group), self.attention.decode_backend
        codes = write_window(cache.codes, pattern, k, v, index, group, backend=backend)
        out = window_attention(q, codes, pattern, index, context, seen, group, backend=backend)
        x = x + self.attention.out(out)
        return x + self.mlp(self.mlp_norm(x)), cache._replace(codes=codes)


def _mask(seen: Bool[Array, "B T"], length: int) -> Bool[Array, "B 1 L L"]:
    """Return the causal mask without the condition's padding. Each position sees itself."""
    keys = jnp.pad(seen, ((0, 0), (0, length - seen.shape[1])), constant_values=True)  # [B L]
    causal, own = (jnp.asarray(one) for one in (np.tri(length, dtype=bool), np.eye(length, dtype=bool)))
    return (causal & keys[:, None] | own)[:, None]


class NoCaption(nnx.Variable):
    """The features of the empty caption: random and, as published, not trained."""


class CaptionEmbedding(nnx.Module):
    """An MLP ``W2 gelu(W1 f)`` of a caption's features f, without biases; the GELU is the tanh approximation."""

    def __init__(self, condition: ByCaption, width: int, init: Initializer, dtype: DTypeLike, *, rngs: nnx.Rngs):
        self.up = Linear(condition.width, width, axes=(None, EMBED), bias=False, dtype=dtype, init=init, rngs=rngs)
        self.down = Linear(width, width, axes=(MLP, EMBED), bias=False, dtype=dtype, init=init, rngs=rngs)
        none = jax.random.normal(rngs.params(), (condition.length, condition.width)) * condition.width**-0.5
        self.none = NoCaption(none, axes=(POSITIONS, None))

    def __call__(self, features: Float[Array, "B T c"]) -> Float[Array, "B T D"]:
        """Compute one vector per position."""
        return self.down(jax.nn.gelu(self.up(features), approximate=True))


class LlamaGen(CachedGenerator):
    """LlamaGen's p(codes | class) or p(codes | caption). Implements ``CodeGenerator``."""

    config: LlamaGenConfig

    def __init__(self, config: LlamaGenConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, dtype, init = config.width, config.dtype, nnx.initializers.normal(config.init_std)
        self.pattern = Pattern("full", config.text_length, config.grid)
        self.condition: Embedding | CaptionEmbedding
        if isinstance(config.condition, ByClass):
            size = config.condition.classes + 1
            self.condition = Embedding(size, width, axis=POSITIONS, dtype=dtype, init=init, rngs=rngs)
        else:
            self.condition = CaptionEmbedding(config.condition, width, init, dtype, rngs=rngs)
        self.codes = CodeTokens(
            config.codebook_size, width, code_width=config.code_width, bias=False, dtype=dtype, init=init,
            init_head=nnx.initializers.zeros, rngs=rngs,
        )  # fmt: skip
        self.stack = Stack(
            lambda rngs: LlamaGenBlock(config, rngs=rngs), (self.pattern,) * config.depth, scan=config.scan,
            remat=config.remat, rngs=rngs,
        )  # fmt: skip
        self.norm = RmsNorm(width, dtype=dtype)

    def empty(self, text: Prompts) -> Array:
        """Return the empty class as one row for all prompts, or empty captions with the padding of each prompt."""
        if isinstance(self.config.condition, ByClass):
            return jnp.full((1,), self.config.condition.classes, text.dtype)
        assert isinstance(self.condition, CaptionEmbedding)
        return jnp.where((text != 0).any(axis=-1, keepdims=True), self.condition.none[...], 0).astype(text.dtype)

    def _read(self, text: Prompts) -> tuple[Float[Array, "P T D"], Bool[Array, "P T"] | None]:
        """Embed the condition; return also a mask that is False at padding, or None without padding."""
        if isinstance(self.config.condition, ByClass):
            return self.condition(text)[:, None], None
        return self.condition(text), (text != 0).any(axis=-1)

    def _table(self) -> Float[np.ndarray, "S h 2"]:
        """Return the rotary angles of all S = T + I positions: those of the condition, then those of the codes."""
        config = self.config
        return grid_rotary_table(config.grid, config.width // config.heads, config.text_length)

    def outputs(self, text: Prompts, codes: Int[Array, "B I"], *, dropout_key: Key[Array, ""] | None = None) -> Outputs:
        """Compute the outputs for all codes by teacher forcing, with dropout if there is a key."""
        condition, seen = self._read(text)
        x = jnp.concatenate([condition, self.codes.embed(codes[:, :-1])], axis=1)  # [B L D]
        enter, layers = (
            (None, None) if dropout_key is None or not self.config.dropout else jax.random.split(dropout_key)
        )
        x = constrain(dropout(x, self.config.dropout, enter), BATCH, SEQ, EMBED)
        table = self._table()[: x.shape[1]]

        def apply(block: LlamaGenBlock, x: Array, pattern: Pattern, key: Array | None) -> tuple[Array, None]:
            return block(x, jnp.asarray(table), pattern, seen, key), None

        x, _ = self.stack(apply, x, stack_keys(layers, self.config.depth))
        return Outputs(image=self.norm(x[:, self.text_length - 1 :]), text=None)

    def prefill(self, text: Prompts, candidates: int) -> tuple[Float[Array, "P K"], Layered]:
        """Return the logits of code 0 for each prompt, and a cache without room for codes."""
        condition, seen = self._read(text)
        table = self._table()[: self.text_length]

        def apply(block: LlamaGenBlock, x: Array, pattern: Pattern, _: None) -> tuple[Array, LlamaGenCache]:
            return block.prefill(x, jnp.asarray(table), pattern, seen, candidates)

        x, caches = self.stack(apply, condition)
        return self.codes.predict(self.norm(x[:, -1])), caches

    def decode(
        self, previous: Int[Array, "P M"], position: Int[Array, ""], cache: Layered
    ) -> tuple[Float[Array, "P M K"], Layered]:
        """Return the logits of code ``position`` >= 1 given code ``position - 1``, and the new cache."""
        index = position - 1
        table = jnp.asarray(self._table()[self.text_length :])[index]  # [h 2]

        def apply(
            block: LlamaGenBlock, x: Array, pattern: Pattern, cache: LlamaGenCache
        ) -> tuple[Array, tuple[Array, Array]]:
            return block.decode(x, table, cache, pattern, index)

        x, cache = self.step(apply, self.codes.embed(previous), cache, index)
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
        codes = jnp.minimum(index[:, None] + jnp.arange(previous.shape[1]), self.pattern.positions - 1)
        table = jnp.asarray(self._table()[self.text_length :])[codes][:, :, None]  # [B W 1 h 2]

        def change(
            block: LlamaGenBlock, x: Array, pattern: Pattern, cache: LlamaGenCache, group: Array | None
        ) -> tuple[Array, LlamaGenCache]:
            return block.decode_window(x, table, cache, pattern, index, context, group)

        x, cache = self.stack.update(change, self.codes.embed(previous), cache)
        return self.norm(x), cache
