"""Attention on a TPU by the splash kernel of jax.experimental.pallas: scores are never stored, empty blocks skipped.

A stream is padded to whole blocks behind its end. A padding position sees itself alone and no position of the stream
sees it, so that it changes nothing. With column attention the codes can be transposed, so that a column's are
neighbours and the blocks between them are empty: done where it leaves fewer blocks.
"""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attention_masks import Pattern, transpose_grid
from dalle_jax.layers.remat import ATTENTION
from dalle_jax.parallel.axes import BATCH, HEADS
from dalle_jax.parallel.layout import on_each_device

LANES = 128
"""Blocks are multiples of a TPU's vector registers."""

BLOCKS = tuple(LANES * n for n in (1, 2, 3, 4, 5))
"""Sides of blocks; the scores of one, in float32 and several times over, lie in a core's own memory."""

PAIRS_PER_STEP = 512 * 512
"""How many pairs of a query and a key could be computed in the time that a block costs besides. An estimate: it was
never timed. It makes blocks large, since a small one is done before the next has begun."""

MAX_FUSED_BLOCKS = 4
"""Up to so many blocks of keys one kernel gives all three gradients, keeping a gradient of the queries for each."""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """How a stream is cut: blocks of side ``block``, ``length`` positions with padding, codes transposed or not."""

    block: int
    length: int
    transposed: bool = False


@functools.lru_cache(maxsize=2)
def _ordered_mask(pattern: Pattern, length: int, transposed: bool) -> np.ndarray:
    return pattern.transposed_mask() if transposed else pattern.mask(length)


def stream_mask(pattern: Pattern, length: int, tiling: Tiling) -> np.ndarray:
    """Bool [padded padded]: who sees whom in a stream of ``length`` in the order in which the kernel gets it."""
    mask = _ordered_mask(pattern, length, tiling.transposed)
    whole = np.eye(tiling.length, dtype=bool)
    whole[: len(mask), : len(mask)] = mask
    return whole


def blocks_run(pattern: Pattern, length: int, tiling: Tiling) -> int:
    """The number of blocks in which some query sees some key; the others are skipped."""
    parts = tiling.length // tiling.block
    mask = stream_mask(pattern, length, tiling).reshape(parts, tiling.block, parts, tiling.block)
    return int(mask.any(axis=(1, 3)).sum())


@functools.cache
def best_tiling(pattern: Pattern, length: int) -> Tiling:
    """The tiling with the least pairs to compute, where each block costs ``PAIRS_PER_STEP`` more than its own."""
    orders = [(False, length)]
    if pattern.kind == "column" and length > pattern.context:
        orders.append((True, pattern.context + pattern.positions))
    tilings = [Tiling(block, -(-size // block) * block, order) for order, size in orders for block in BLOCKS]

    def cost(tiling: Tiling) -> tuple[int, int]:
        return blocks_run(pattern, length, tiling) * (PAIRS_PER_STEP + tiling.block**2), tiling.length

    return min(tilings, key=cost)


@functools.cache
def _kernel(pattern: Pattern, length: int, tiling: Tiling, interpret: bool) -> Any:
    """The kernel of one mask, for any number of heads: arrays of numpy, which belong to no trace and no device.

    Put together from the package's parts: its own ``make_splash_mha`` places arrays on a device, and there is none when
    a program is compiled for a slice that is elsewhere.
    """
    # Imported here: it takes a second, which only those who use it should spend.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask_info as infos
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import MultiHeadMask, NumpyMask

    block, fused = tiling.block, tiling.length // tiling.block <= MAX_FUSED_BLOCKS
    mask = MultiHeadMask([NumpyMask(stream_mask(pattern, length, tiling))])
    forward, mask_function = infos.process_mask(mask, (block, block))
    backward, _ = infos.process_mask_dkv(mask, (block, block), shrink_grid=not fused)
    sizes = kernels.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, use_fused_bwd_kernel=fused,
        block_q_dq=None if fused else block, block_kv_dq=None if fused else block,
    )  # fmt: skip
    return kernels.SplashAttentionKernel(
        forward, None if fused else forward, backward, block_sizes=sizes, is_mqa=False, save_residuals=False,
        mask_value=kernels.DEFAULT_MASK_VALUE, attn_logits_soft_cap=None, residual_checkpoint_name=ATTENTION,
        mask_function=mask_function, interpret=interpret,
    )  # fmt: skip


def splash_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B N L H"],
    v: Float[Array, "B N L H"],
    pattern: Pattern,
    *,
    tiling: Tiling | None = None,
    interpret: bool = False,
) -> Float[Array, "B N L H"]:
    """Attention of a stream to itself under ``pattern``; softmax in float32. Each device does its own rows and heads.

    ``interpret`` runs the kernel step by step on any platform, for tests.
    """
    length, (height, width) = q.shape[2], pattern.grid
    tiling = tiling or best_tiling(pattern, length)
    kernel = _kernel(pattern, length, tiling, interpret)

    def ordered(x: Array) -> Array:
        whole = pattern.context + pattern.positions if tiling.transposed else length
        x = jnp.pad(x, ((0, 0), (0, 0), (0, whole - length), (0, 0)))
        x = transpose_grid(x, pattern.context, (height, width)) if tiling.transposed else x
        return jnp.pad(x, ((0, 0), (0, 0), (0, tiling.length - whole), (0, 0)))

    q = (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)
    out = on_each_device(jax.vmap(kernel), (BATCH, HEADS, None, None), ordered(q), ordered(k), ordered(v))
    if tiling.transposed:
        out = transpose_grid(out[:, :, : pattern.context + pattern.positions], pattern.context, (width, height))
    return out[:, :, :length]
