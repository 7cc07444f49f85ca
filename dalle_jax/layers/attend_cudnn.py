"""Attention on an NVIDIA GPU by cuDNN's fused kernel, which ``jax.nn.dot_product_attention`` calls.

Full attention is the kernel's own causal form, which skips what no query sees. The other kinds go in as a mask of all
pairs that rows and heads share: the kernel then computes every pair, but stores no scores either.
"""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attention_masks import Pattern

WIDEST_HEAD = 128
"""What every GPU with the kernel takes (Hopper takes 256); a head's width is a multiple of 8."""


def cudnn_obstacle(q: Float[Array, "B N L H"], pattern: Pattern) -> str | None:
    """Why the kernel cannot compute this, or None."""
    length, size = q.shape[2:]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, got {q.dtype}"
    if size % 8 or size > WIDEST_HEAD:
        return f"head_size must be a multiple of 8 and at most {WIDEST_HEAD}, got {size}"
    if length % 2 and not is_causal(pattern, length):
        return f"{pattern.kind} attention needs a stream of even length, got {length}"
    return None


def is_causal(pattern: Pattern, length: int) -> bool:
    """Whether every position sees all positions up to itself."""
    return pattern.kind == "full" or length <= pattern.context


def cudnn_attention(
    q: Float[Array, "B N L H"], k: Float[Array, "B N L H"], v: Float[Array, "B N L H"], pattern: Pattern
) -> Float[Array, "B N L H"]:
    """Attention of a stream to itself under ``pattern``; softmax in float32."""
    causal = is_causal(pattern, q.shape[2])
    mask = None if causal else jnp.asarray(pattern.mask(q.shape[2]))[None, None]
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [B L N H]
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=causal, implementation="cudnn").swapaxes(1, 2)
