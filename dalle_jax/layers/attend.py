"""Attention of a stream to itself, in the form that suits the platform or that a config asks for by name.

xla     on a CPU in blocks (attend_blocks.py), elsewhere one masked product over all pairs (dense_attention)
splash  the kernel for TPUs (attend_splash.py)
cudnn   the kernel for NVIDIA GPUs (attend_cudnn.py)
auto    splash on a TPU for streams of 128 and more, cudnn on a GPU for what it computes, else xla

The form for cuDNN was run on an H200 and equals the mask there (tests/layers/test_attend_gpu.py). The splash kernel was
compiled for TPUs and equals the mask when it is interpreted; no TPU has run it yet.
"""

from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float
from dalle_jax.config.errors import UserError
from dalle_jax.layers.attend_blocks import block_attention
from dalle_jax.layers.attend_cudnn import cudnn_attention, cudnn_obstacle
from dalle_jax.layers.attend_splash import LANES, splash_attention
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern
from dalle_jax.parallel.layout import platform

Backend: TypeAlias = Literal["auto", "xla", "splash", "cudnn"]

KERNEL_PLATFORM = {"splash": "tpu", "cudnn": "gpu"}
"""The platform that each kernel is for."""


def dense_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B N S H"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B 1 #L S"] | None = None,
) -> Float[Array, "B N L H"]:
    """Attention over all pairs; ``mask`` is True where a query (row) sees a key (column). Softmax in float32."""
    scores = jnp.einsum("bnlh,bnsh->bnls", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)  # [B N L S]
    return jnp.einsum("bnls,bnsh->bnlh", weights, v)


def choose_backend(q: Float[Array, "B N L H"], backend: Backend) -> Backend:
    """What computes this stream: never ``auto``. Raises UserError where a kernel that was asked for cannot."""
    where = platform()
    if where == "none":
        return "xla"
    if backend == "auto":
        if where == "gpu":
            return "cudnn" if cudnn_obstacle(q) is None else "xla"
        return "splash" if where == "tpu" and q.shape[2] >= LANES else "xla"
    if backend == "xla":
        return backend
    if KERNEL_PLATFORM[backend] != where:
        raise UserError(
            f"backend = {backend!r}: expected to run on a {KERNEL_PLATFORM[backend]}, got a {where}; "
            f"'auto' and 'xla' run everywhere"
        )
    obstacle = cudnn_obstacle(q) if backend == "cudnn" else None
    if obstacle is not None:
        raise UserError(f"backend = {backend!r}: {obstacle}; 'xla' runs everywhere")
    return backend


def stream_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B N L H"],
    v: Float[Array, "B N L H"],
    pattern: Pattern,
    backend: Backend = "auto",
) -> Float[Array, "B N L H"]:
    """Attention of a stream (context, then codes) to itself under ``pattern``."""
    chosen = choose_backend(q, backend)
    if chosen == "splash":
        return splash_attention(q, k, v, pattern)
    if chosen == "cudnn":
        return cudnn_attention(q, k, v, pattern)
    if platform() == "cpu":
        return block_attention(q, k, v, pattern)
    return dense_attention(q, k, v, jnp.asarray(pattern.mask(q.shape[2]))[None, None])
