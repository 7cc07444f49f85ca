"""Attention on TPUs with the splash kernel of jax.experimental.pallas.

The kernel does not store scores and skips blocks in which every pair is masked. A stream is padded at its end to whole
blocks. A padding position attends to itself only, and no real position attends to it, so padding changes nothing.
Column attention may transpose the codes, so that the codes of a column are adjacent and more blocks are empty. It does
so if fewer blocks remain.
"""

import dataclasses
import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attention_masks import Pattern, transpose_grid
from dalle_jax.layers.remat import ATTENTION
from dalle_jax.parallel.axes import BATCH, HEADS
from dalle_jax.parallel.layout import on_each_device

LANES = 128
"""The width of a TPU's vector registers. Block sides are multiples of it."""

BLOCKS = tuple(LANES * n for n in (1, 2, 3, 4, 5))
"""The sides of blocks to choose from.

They are limited, since the memory of a TPU core must hold several float32 copies of a block's scores.
"""

PAIRS_PER_STEP = 512 * 512
"""The fixed cost of a block, as the number of query-key pairs computed in the same time.

An estimate, never timed. It favours large blocks.
"""

MAX_FUSED_BLOCKS = 4
"""The largest number of key blocks for the fused backward kernel.

That kernel keeps one partial gradient of the queries per key block.
"""


@dataclasses.dataclass(frozen=True)
class Tiling:
    """The division of a stream into blocks of side ``block``; ``length`` is the length of the padded stream.

    ``transposed`` says that the codes are in column-major order.
    """

    block: int
    length: int
    transposed: bool = False


@functools.lru_cache(maxsize=2)
def _ordered_mask(pattern: Pattern, length: int, transposed: bool) -> np.ndarray:
    return pattern.transposed_mask() if transposed else pattern.mask(length)


def stream_mask(pattern: Pattern, length: int, tiling: Tiling) -> np.ndarray:
    """Return the mask, bool [padded padded], of a stream of ``length`` in the order that the kernel gets."""
    mask = _ordered_mask(pattern, length, tiling.transposed)
    whole = np.eye(tiling.length, dtype=bool)
    whole[: len(mask), : len(mask)] = mask
    return whole


def blocks_run(pattern: Pattern, length: int, tiling: Tiling) -> int:
    """Count the blocks that have at least one unmasked pair; the kernel skips the others."""
    parts = tiling.length // tiling.block
    mask = stream_mask(pattern, length, tiling).reshape(parts, tiling.block, parts, tiling.block)
    return int(mask.any(axis=(1, 3)).sum())


@functools.cache
def best_tiling(pattern: Pattern, length: int) -> Tiling:
    """Return the tiling of least cost; a block costs its pairs plus ``PAIRS_PER_STEP``."""
    orders = [(False, length)]
    if pattern.kind == "column" and length > pattern.context:
        orders.append((True, pattern.context + pattern.positions))
    tilings = [Tiling(block, -(-size // block) * block, order) for order, size in orders for block in BLOCKS]

    def cost(tiling: Tiling) -> tuple[int, int]:
        return blocks_run(pattern, length, tiling) * (PAIRS_PER_STEP + tiling.block**2), tiling.length

    return min(tilings, key=cost)


@functools.cache
def _kernel(pattern: Pattern, length: int, tiling: Tiling, interpret: bool) -> Callable[..., Array]:
    """Build the kernel of one mask, for any number of heads. Its arrays are numpy's, so no trace or device owns them.

    The kernel is built from the package's parts, since ``make_splash_mha`` places arrays on a device. There is no
    device when a program is compiled ahead of time for a TPU topology.
    """
    # Imported here, since the import takes a second.
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
    return kernels.SplashAttentionKernel(  # type: ignore[return-value]  # one array, since it saves no residuals
        forward, None if fused else forward, backward, block_sizes=sizes, is_mqa=False, save_residuals=False,
        mask_value=kernels.DEFAULT_MASK_VALUE, attn_logits_soft_cap=None, residual_checkpoint_name=ATTENTION,
        mask_function=mask_function, interpret=interpret,
    )  # fmt: skip


def splash_obstacle(q: Float[Array, "B N L H"]) -> str | None:
    """Return why the kernel should not compute these queries, or None if it should.

    Its products of float32 operands have a TPU's default precision, which rounds them to bfloat16.
    """
    return None if q.dtype == jnp.bfloat16 else f"the splash kernel computes in bfloat16, got {q.dtype}"


def splash_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B N L H"],
    v: Float[Array, "B N L H"],
    pattern: Pattern,
    *,
    tiling: Tiling | None = None,
    interpret: bool = False,
) -> Float[Array, "B N L H"]:
    """Compute self-attention over a stream under the mask of ``pattern``, with the softmax in float32.

    Each device computes its own rows and heads. ``interpret`` runs the kernel in Pallas's interpreter on any platform,
    for tests.
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
