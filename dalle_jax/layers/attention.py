"""Self-attention and cross-attention of transformer blocks, for whole streams, prefill and single cached steps."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Bool, Float, Int
from dalle_jax.layers import kv_cache, slot_cache
from dalle_jax.layers.attend import Backend, dense_attention, stream_attention
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern
from dalle_jax.layers.kv_cache import KvCache
from dalle_jax.layers.linear import Initializer, Linear, unstack
from dalle_jax.layers.remat import name_attention
from dalle_jax.layers.slot_cache import SlotCache
from dalle_jax.parallel.axes import BATCH, CANDIDATES, EMBED, HEAD_DIM, HEADS
from dalle_jax.parallel.layout import axis_after_batch, constrain


def _heads_first(x: Float[Array, "B L N H"]) -> Float[Array, "B N L H"]:
    return constrain(x.swapaxes(1, 2), BATCH, HEADS, axis_after_batch(x.shape[0]), None)


def _per_head(x: Float[Array, "P M N D"], kernel: Float[Array, "P N D F"], dtype: DTypeLike) -> Float[Array, "P M N F"]:
    """Multiply the rows of each head by the head's matrix; an einsum would compute the transposed product."""
    axes = (((3,), (2,)), ((0, 1), (0, 1)))
    rows, kernel = x.swapaxes(1, 2), kernel.astype(x.dtype)
    product = jax.lax.dot_general(rows, kernel, axes, preferred_element_type=dtype)  # [P N M F]
    return product.swapaxes(1, 2)


def step_attention(
    q: Float[Array, "P M N H"],
    k: Float[Array, "P M N H"],
    v: Float[Array, "P M N H"],
    cache: KvCache,
    pattern: Pattern,
    index: Int[Array, ""],
    seen: Bool[Array, "P C"] | None = None,
) -> Float[Array, "P M N H"]:
    """Attend from one query per candidate, at code ``index``, to the context, the cached codes and itself.

    ``seen`` marks the visible context positions; None makes all of them visible.
    """
    codes = kv_cache.read(cache, pattern, index)
    q = q * q.shape[-1] ** -0.5
    context = _per_head(q, cache.context_k, jnp.float32)  # [P M N C]
    if seen is not None:
        context = jnp.where(seen[:, None, None], context, MASKED_SCORE)
    image = jnp.einsum("pmnh,pmnsh->pmns", q, codes.k, preferred_element_type=jnp.float32)
    own = (q.astype(jnp.float32) * k.astype(jnp.float32)).sum(axis=-1, keepdims=True)  # [P M N 1]
    scores = jnp.concatenate([context, jnp.where(codes.visible, image, MASKED_SCORE), own], axis=-1)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))  # [P M N C+S+1], not normalised
    total = weights.sum(axis=-1, keepdims=True)
    weights, split = weights.astype(q.dtype), cache.context_v.shape[2]
    out = _per_head(weights[..., :split], cache.context_v, q.dtype)  # [P M N H]
    out = out + jnp.einsum("pmns,pmnsh->pmnh", weights[..., split:-1], codes.v) + weights[..., -1:] * v
    return out / total.astype(q.dtype)


class SelfAttention(nnx.Module):
    """Multi-head self-attention without biases; one product gives queries, keys and values.

    ``backend`` computes whole streams (layers/attend.py). Prefill and single steps always use XLA, so a model samples
    on any platform, regardless of the backend that trained it.
    """

    def __init__(
        self, width: int, heads: int, head_size: int, *, dtype: DTypeLike, backend: Backend = "auto",
        init: Initializer | None = None, init_out: Initializer | None = None, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.backend = backend
        self.qkv = Linear(
            width, (3, heads, head_size), axes=(EMBED, None, HEADS, HEAD_DIM), bias=False, dtype=dtype, init=init,
            rngs=rngs,
        )  # fmt: skip
        self.out = Linear(
            (heads, head_size), width, axes=(HEADS, HEAD_DIM, EMBED), bias=False, dtype=dtype,
            init=init if init_out is None else init_out, rngs=rngs,
        )  # fmt: skip

    def project_qkv(self, x: Float[Array, "B L D"]) -> tuple[Array, Array, Array]:
        """Project ``x`` to queries, keys and values, each [B N L H]."""
        q, k, v = unstack(name_attention(self.qkv(x)), 2)  # [B L N H] each
        return _heads_first(q), _heads_first(k), _heads_first(v)

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
        """Attend for one step, at code ``index``; return its output, and its key and value [P M N H].

        The caller writes the key and value to the cache (``kv_cache.write``).
        """
        qkv = constrain(self.qkv(x), BATCH, CANDIDATES, None, HEADS, None)  # [P M 3 N H]
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        out = step_attention(q, k, v, cache, pattern, index)
        return self.out(out), kv_cache.order_after(out, k, v)

    def decode_window(
        self,
        x: Float[Array, "B W D"],
        cache: SlotCache,
        pattern: Pattern,
        index: Int[Array, " B"],
        group: Int[Array, ""] | None = None,
    ) -> tuple[Float[Array, "B W D"], SlotCache]:
        """Attend for one pass, at codes ``index`` to ``index + W - 1`` of each row; return its output and the cache.

        ``group`` is the layer's index in a scanned stack.
        """
        q, k, v = unstack(self.qkv(x), 2)  # [B W N H] each
        cache = slot_cache.write_window(cache, pattern, k, v, index, group)
        return self.out(slot_cache.window_attention(q, slot_cache.of_group(cache, group), pattern, index)), cache


class CrossKeys(NamedTuple):
    """Keys and values of an encoded text. ``mask`` is False at padding. The first axis of each array is prompts."""

    k: Float[Array, "P N T H"]
    v: Float[Array, "P N T H"]
    mask: Bool[Array, "P T"]


class CrossAttention(nnx.Module):
    """Multi-head attention to an encoded text, without biases."""

    def __init__(self, width: int, heads: int, head_size: int, *, dtype: DTypeLike, init: Initializer, rngs: nnx.Rngs):
        into = (EMBED, HEADS, HEAD_DIM)
        self.q = Linear(width, (heads, head_size), axes=into, bias=False, dtype=dtype, init=init, rngs=rngs)
        self.kv = Linear(
            width, (2, heads, head_size), axes=(EMBED, None, HEADS, HEAD_DIM), bias=False, dtype=dtype, init=init,
            rngs=rngs,
        )  # fmt: skip
        self.out = Linear(
            (heads, head_size), width, axes=(HEADS, HEAD_DIM, EMBED), bias=False, dtype=dtype, init=init, rngs=rngs
        )

    def keys(self, text: Float[Array, "P T D"], mask: Bool[Array, "P T"]) -> CrossKeys:
        """Project an encoded text to keys and values, once per text."""
        k, v = unstack(name_attention(self.kv(text)), 2)  # [P T N H] each
        return CrossKeys(_heads_first(k), _heads_first(v), mask)

    def __call__(self, x: Float[Array, "P L D"], keys: CrossKeys) -> Float[Array, "P L D"]:
        """Attend from ``x`` to an encoded text.

        ``x`` has L positions of one stream per text, or one position of each of a text's L candidates.
        """
        q = _heads_first(name_attention(self.q(x)))  # [P N L H]
        out = name_attention(dense_attention(q, keys.k, keys.v, keys.mask[:, None, None]))
        return self.out(out.swapaxes(1, 2))
