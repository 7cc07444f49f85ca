"""Self-attention and cross-attention of transformer blocks, for whole streams, prefill and single cached steps."""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers import kv_cache, slot_cache
from dalle_jax.layers.attend import Backend, dense_attention, stream_attention
from dalle_jax.layers.attend_backends.attend_decode import DecodeBackend
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern
from dalle_jax.layers.head_groups import group_heads, own_columns, spread_queries
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import Initializer, Linear, precision_of, unstack
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import name_attention
from dalle_jax.layers.slot_cache import SlotCache, arrange_contexts
from dalle_jax.parallel.axes import BATCH, CANDIDATES, EMBED, HEAD_DIM, HEADS
from dalle_jax.parallel.layout import axis_after_batch, constrain


def _heads_first(x: Float[Array, "B L N H"]) -> Float[Array, "B N L H"]:
    return constrain(x.swapaxes(1, 2), BATCH, HEADS, axis_after_batch(x.shape[0]), None)


def _per_head(x: Float[Array, "P M G *R D"], kernel: Float[Array, "P G D E"], dtype: DTypeLike) -> Float[Array, "..."]:
    """Multiply the rows of each head by the head's matrix; an einsum would compute the transposed product."""
    axes = (((x.ndim - 1,), (2,)), ((0, 1), (0, 1)))
    rows, kernel = x.swapaxes(1, 2), kernel.astype(x.dtype)  # [P G M *R D]
    product = jax.lax.dot_general(
        rows, kernel, axes, precision=precision_of(x.dtype), preferred_element_type=dtype
    )  # [P G M *R E]
    return product.swapaxes(1, 2)


def step_attention(
    q: Float[Array, "P M N H"],
    k: Float[Array, "P M G H"],
    v: Float[Array, "P M G H"],
    cache: KvCache,
    pattern: Pattern,
    index: Int[Array, ""],
    seen: Bool[Array, "P C"] | None = None,
) -> Float[Array, "P M N H"]:
    """Attend from one query per candidate, at code ``index``, to the context, the cached codes and itself.

    ``seen`` marks the visible context positions; None makes all of them visible.
    """
    codes, shape, heads = kv_cache.read(cache, pattern, index), q.shape, k.shape[2]
    q = q * q.shape[-1] ** -0.5
    wide, r = group_heads(spread_queries(q, heads, codes.k.shape[-1]), codes.k.shape[2], axis=2)  # [P M (N or Y R) F]
    q, shared = group_heads(q, heads, axis=2)  # [P M N H], or [P M G R H]
    k, v = (x[..., None, :] if shared else x for x in (k, v))
    product = partial(jnp.einsum, precision=precision_of(q.dtype))
    context = _per_head(wide, cache.context_k, jnp.float32)  # [P M N C], or [P M Y R C]
    if seen is not None:
        context = jnp.where(jnp.expand_dims(seen, tuple(range(1, context.ndim - 1))), context, MASKED_SCORE)
    image = product(f"pmy{r}f,pmysf->pmy{r}s", wide, codes.k, preferred_element_type=jnp.float32)
    own = (q.astype(jnp.float32) * k.astype(jnp.float32)).sum(axis=-1, keepdims=True).reshape(*wide.shape[:-1], 1)
    scores = jnp.concatenate([context, jnp.where(codes.visible, image, MASKED_SCORE), own], axis=-1)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))  # [P M N C+S+1], not normalised
    total = weights.sum(axis=-1, keepdims=True).reshape(*q.shape[:-1], 1)
    weights, split = weights.astype(q.dtype), cache.context_v.shape[2]
    out = _per_head(weights[..., :split], cache.context_v, q.dtype)  # [P M N F], or [P M Y R F]
    out = out + product(f"pmy{r}s,pmysf->pmy{r}f", weights[..., split:-1], codes.v)
    out = own_columns(out.reshape(*shape[:-1], -1), heads, shape[-1]).reshape(q.shape)
    out = out + weights[..., -1:].reshape(*q.shape[:-1], 1) * v
    return (out / total.astype(q.dtype)).reshape(shape)


class SelfAttention(nnx.Module):
    """Multi-head or grouped-query self-attention without biases.

    With ``kv_heads`` of ``heads`` or None, one product gives queries, keys and values. With fewer, a second product
    gives keys and values. ``backend`` computes whole streams (layers/attend.py). Prefill and single steps always use
    XLA, so a model samples on any platform, regardless of the backend that trained it. ``qk_norm`` normalises queries
    and keys over each head (QK-norm: ViT-22B, arXiv 2302.05442, section 2), which bounds the logits.
    """

    def __init__(
        self, width: int, heads: int, head_size: int, *, kv_heads: int | None = None, qk_norm: bool = False,
        dtype: DTypeLike,
        backend: Backend = "auto", init: Initializer | None = None, init_out: Initializer | None = None,
        rngs: nnx.Rngs,
    ):  # fmt: skip
        self.backend = backend
        self.decode_backend: DecodeBackend = "auto"
        self.grouped = kv_heads not in (None, heads)

        def linear(*out_shape: int) -> Linear:
            axes = (EMBED, *(None,) * (len(out_shape) - 2), HEADS, HEAD_DIM)
            return Linear(width, out_shape, axes=axes, bias=False, dtype=dtype, init=init, rngs=rngs)

        if kv_heads is None or kv_heads == heads:
            self.qkv = linear(3, heads, head_size)
        else:
            self.q, self.kv = linear(heads, head_size), linear(2, kv_heads, head_size)
        self.out = Linear(
            (heads, head_size), width, axes=(HEADS, HEAD_DIM, EMBED), bias=False, dtype=dtype,
            init=init if init_out is None else init_out, rngs=rngs,
        )  # fmt: skip

        def norm() -> LayerNorm | None:
            return LayerNorm(head_size, bias=False, axes=(HEAD_DIM,), dtype=dtype) if qk_norm else None

        self.norm_q, self.norm_k = nnx.data(norm()), nnx.data(norm())

    def project(self, x: Float[Array, "B L D"]) -> tuple[Array, Array, Array]:
        """Project ``x`` to queries [B L N H], and to keys and values [B L G H]; normalise queries and keys if set."""
        q, k, v = self._products(x)
        if self.norm_q is None or self.norm_k is None:
            return q, k, v
        return self.norm_q(q), self.norm_k(k), v

    def _products(self, x: Float[Array, "B L D"]) -> tuple[Array, Array, Array]:
        if not self.grouped:
            q, k, v = unstack(name_attention(self.qkv(x)), 2)
            return q, k, v
        k, v = unstack(name_attention(self.kv(x)), 2)
        return name_attention(self.q(x)), k, v

    def project_qkv(self, x: Float[Array, "B L D"]) -> tuple[Array, Array, Array]:
        """Project ``x`` to queries [B N L H], and to keys and values [B G L H]."""
        q, k, v = self.project(x)
        return _heads_first(q), _heads_first(k), _heads_first(v)

    def project_step(self, x: Float[Array, "P M D"]) -> tuple[Array, Array, Array]:
        """Project the inputs of one step to queries [P M N H], and to keys and values [P M G H]."""
        q, k, v = (constrain(one, BATCH, CANDIDATES, HEADS, None) for one in self.project(x))
        return q, k, v

    def __call__(self, x: Float[Array, "B L D"], pattern: Pattern) -> Float[Array, "B L D"]:
        """Compute self-attention over a whole stream under the mask of ``pattern``."""
        out = stream_attention(*self.project_qkv(x), pattern, self.backend)
        return self.out(name_attention(out).swapaxes(1, 2))

    def bidirectional(self, x: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        """Attend in both directions (an encoder) to the positions where ``mask`` is True."""
        return self.out(name_attention(dense_attention(*self.project_qkv(x), mask[:, None, None])).swapaxes(1, 2))

    def prefill(self, x: Float[Array, "P C D"], candidates: int, pattern: Pattern) -> tuple[Array, KvCache]:
        """Attend over the context alone.

        Return its outputs [P C D] and a cache for ``candidates`` images per prompt.
        """
        q, k, v = self.project_qkv(x)
        out = self.out(stream_attention(q, k, v, pattern, "xla").swapaxes(1, 2))
        return out, kv_cache.new_cache(k, v, candidates, pattern)

    def decode(
        self, x: Float[Array, "P M D"], cache: KvCache, pattern: Pattern, index: Int[Array, ""]
    ) -> tuple[Float[Array, "P M D"], tuple[Array, Array]]:
        """Attend for one step, at code ``index``; return its output, and its key and value [P M G H].

        The caller writes the key and value to the cache (``kv_cache.write``).
        """
        q, k, v = self.project_step(x)
        out = step_attention(q, k, v, cache, pattern, index)
        return self.out(out), kv_cache.order_after(out, k, v)

    def decode_window(
        self,
        x: Float[Array, "B W D"],
        cache: SlotCache,
        pattern: Pattern,
        index: Int[Array, " B"],
        context: Int[Array, " B"] | None,
        group: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B W D"], SlotCache]:
        """Attend for one pass, at codes ``index`` to ``index + W - 1`` of each row; return its output and the cache.

        ``context`` is the context of each row (layers/slot_cache.py), and ``group`` the layer's index in a scanned
        stack.
        """
        q, k, v = self.project(x)  # [B W N H], [B W G H]
        cache = slot_cache.write_window(cache, pattern, k, v, index, group, backend=self.decode_backend)
        out = slot_cache.window_attention(q, cache, pattern, index, context, group=group, backend=self.decode_backend)
        return self.out(out), cache


class CrossKeys(NamedTuple):
    """Keys and values of an encoded text. The first axis of each array is prompts.

    ``mask`` is False at padding. It has an axis of L positions if each sees a different part.
    """

    k: Float[Array, "P G T H"]
    v: Float[Array, "P G T H"]
    mask: Bool[Array, "P T"] | Bool[Array, "P L T"]


class CrossAttention(nnx.Module):
    """Multi-head or grouped-query attention to an encoded text, without biases."""

    def __init__(
        self, width: int, heads: int, head_size: int, *, kv_heads: int | None = None, dtype: DTypeLike,
        init: Initializer, rngs: nnx.Rngs,
    ):  # fmt: skip
        into = (EMBED, HEADS, HEAD_DIM)
        self.q = Linear(width, (heads, head_size), axes=into, bias=False, dtype=dtype, init=init, rngs=rngs)
        self.kv = Linear(
            width, (2, kv_heads or heads, head_size), axes=(EMBED, None, HEADS, HEAD_DIM), bias=False, dtype=dtype,
            init=init, rngs=rngs,
        )  # fmt: skip
        self.out = Linear(
            (heads, head_size), width, axes=(HEADS, HEAD_DIM, EMBED), bias=False, dtype=dtype, init=init, rngs=rngs
        )

    def keys(self, text: Float[Array, "P T D"], mask: Bool[Array, "P T"]) -> CrossKeys:
        """Project an encoded text to keys and values, once per text."""
        k, v = unstack(name_attention(self.kv(text)), 2)  # [P T G H] each
        return CrossKeys(_heads_first(k), _heads_first(v), mask)

    def __call__(self, x: Float[Array, "P L D"], keys: CrossKeys) -> Float[Array, "P L D"]:
        """Attend from ``x`` to an encoded text.

        ``x`` has L positions of one stream per text, or one position of each of a text's L candidates.
        """
        q = _heads_first(name_attention(self.q(x)))  # [P N L H]
        mask = keys.mask[:, None] if keys.mask.ndim == 3 else keys.mask[:, None, None]
        out = name_attention(dense_attention(q, keys.k, keys.v, mask))
        return self.out(out.swapaxes(1, 2))

    def window(
        self, x: Float[Array, "B W D"], keys: CrossKeys, context: Int[Array, " B"] | None
    ) -> Float[Array, "B W D"]:
        """Attend from W positions of each row to the text of its context (layers/slot_cache.py)."""
        rows, window, _ = x.shape
        k, v, seen = arrange_contexts(keys.k, keys.v, keys.mask, context, rows)
        assert seen is not None
        mask = jnp.repeat(seen, window, axis=0).reshape(k.shape[0], -1, seen.shape[-1])  # [Y B/Y*W T]
        return self(x.reshape(k.shape[0], -1, x.shape[-1]), CrossKeys(k, v, mask)).reshape(x.shape)
