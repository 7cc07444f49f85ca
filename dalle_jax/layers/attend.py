"""Self-attention over a stream (context, then image tokens), with the backend that a config names.

xla     in blocks on a CPU (attend_blocks.py), elsewhere one masked product over all pairs (``dense_attention``)
splash  the Pallas kernel for TPUs (attend_splash.py)
cudnn   the fused kernel for NVIDIA GPUs (attend_cudnn.py)
auto    splash on a TPU for bfloat16 streams of 128 or more; cudnn on a GPU if it supports the operands; else xla

All backends compute the same masked attention. cuDNN's was verified on an H200 (tests/layers/test_attend_gpu.py). The
splash kernel was compiled for TPUs and verified in interpret mode. It has not run on a TPU yet.
"""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float
from dalle_jax.config.errors import UserError
from dalle_jax.layers.attend_backends.attend_blocks import block_attention
from dalle_jax.layers.attend_backends.attend_cudnn import cudnn_attention, cudnn_obstacle
from dalle_jax.layers.attend_backends.attend_splash import LANES, splash_attention, splash_obstacle
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern
from dalle_jax.layers.head_groups import group_heads, repeat_heads
from dalle_jax.layers.linear import precision_of
from dalle_jax.parallel.layout import platform

Backend: TypeAlias = Literal["auto", "xla", "splash", "cudnn"]

KERNEL_PLATFORM = {"splash": "tpu", "cudnn": "gpu"}
"""The platform on which each kernel runs."""


def dense_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B G S H"],
    v: Float[Array, "B G S H"],
    mask: Bool[Array, "#B 1 #L S"] | None = None,
) -> Float[Array, "B N L H"]:
    """Compute softmax(q k / sqrt(H)) v over all pairs. The logits and the softmax are float32, whatever q's dtype.

    ``mask`` is True if a query (row) may attend to a key (column). G divides N (layers/head_groups.py).
    """
    return _attend(q, k, v, mask, q.shape[-1] ** -0.5, heads=1)


def dense_attention_blnh(
    q: Float[Array, "B L N H"],
    k: Float[Array, "B S G H"],
    v: Float[Array, "B S G H"],
    mask: Bool[Array, "#B 1 #L S"] | None = None,
    *,
    scale: float | None = None,
) -> Float[Array, "B L N H"]:
    """Compute ``dense_attention`` of operands whose heads come after the positions.

    ``scale`` is the factor of the logits, by default 1 / sqrt(H). A network that scales its queries passes 1.
    """
    return _attend(q, k, v, mask, q.shape[-1] ** -0.5 if scale is None else scale, heads=2)


def _attend(q: Array, k: Array, v: Array, mask: Array | None, scale: float, heads: int) -> Array:
    """Attend; ``heads`` is the dimension of the heads, before or after the positions."""
    precision, shape = precision_of(q.dtype), q.shape
    q, r = group_heads(q, k.shape[heads], axis=heads)  # [B N L H] or [B G R L H], or with the positions before N or G
    queries, keys = (f"bg{r}lh", "bgsh") if heads == 1 else (f"blg{r}h", "bsgh")
    scores = jnp.einsum(f"{queries},{keys}->bg{r}ls", q, k, precision=precision, preferred_element_type=jnp.float32)
    scores = scores * scale
    if mask is not None:
        scores = jnp.where(mask[:, :, None] if r else mask, scores, MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)  # [B N L S], or [B G R L S]
    return jnp.einsum(f"bg{r}ls,{keys}->{queries}", weights, v, precision=precision).reshape(shape)


def choose_backend(q: Float[Array, "B N L H"], backend: Backend) -> Backend:
    """Resolve ``auto`` to a backend for this stream, and check any other choice.

    Raises UserError if the named kernel cannot compute this stream on this platform.
    """
    here = platform()
    if here == "none":
        return "xla"
    if backend == "auto":
        if here == "gpu":
            return "cudnn" if cudnn_obstacle(q) is None else "xla"
        return "splash" if here == "tpu" and q.shape[2] >= LANES and splash_obstacle(q) is None else "xla"
    if backend == "xla":
        return backend
    if KERNEL_PLATFORM[backend] != here:
        raise UserError(
            f"backend = {backend!r}: expected to run on a {KERNEL_PLATFORM[backend]}, got a {here}; "
            f"'auto' and 'xla' run everywhere"
        )
    obstacle = cudnn_obstacle(q) if backend == "cudnn" else splash_obstacle(q)
    if obstacle is not None:
        raise UserError(f"backend = {backend!r}: {obstacle}; 'xla' runs everywhere")
    return backend


def stream_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B G L H"],
    v: Float[Array, "B G L H"],
    pattern: Pattern,
    backend: Backend = "auto",
) -> Float[Array, "B N L H"]:
    """Compute self-attention over a stream (context, then codes) under the mask of ``pattern``.

    The backends for whole streams get a copy of each key and value head per query head of its group.
    """
    chosen = choose_backend(q, backend)
    k, v = repeat_heads(k, q.shape[1]), repeat_heads(v, q.shape[1])
    if chosen == "splash":
        return splash_attention(q, k, v, pattern)
    if chosen == "cudnn":
        return cudnn_attention(q, k, v, pattern)
    if platform() == "cpu":
        return block_attention(q, k, v, pattern)
    return dense_attention(q, k, v, jnp.asarray(pattern.mask(q.shape[2]))[None, None])
