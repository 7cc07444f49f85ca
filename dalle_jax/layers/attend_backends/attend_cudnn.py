"""Attention on NVIDIA GPUs with cuDNN's fused kernel, called through ``jax.nn.dot_product_attention``.

Full attention uses the kernel's causal mode, which skips masked pairs. With an explicit mask the kernel skips nothing.
Sparse attention therefore passes image tokens in blocks (as in attend_blocks.py). The keys of a block are the context,
the block itself and a fixed number of image tokens before it. If blocks save little, all pairs are passed with one mask
for the whole batch and all heads. The scores are never stored.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attend_backends.attend_blocks import block_size, windows
from dalle_jax.layers.attention_masks import Pattern

MAX_HEAD_SIZE = 128
"""The widest head that the kernel supports on every GPU (Hopper supports 256). Widths are multiples of 8."""

BLOCK = 128
"""The least number of image tokens in a block: the size of the kernel's own tiles."""

MAX_PAIR_SHARE = 0.5
"""Blocks are used if they compute less than this share of all pairs, since keys shared by blocks are copied."""


def cudnn_obstacle(q: Float[Array, "B N L H"]) -> str | None:
    """Return why the kernel cannot compute these queries, or None if it can."""
    size = q.shape[3]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"cuDNN's kernel computes in bfloat16 or float16, got {q.dtype}"
    if size % 8 or size > MAX_HEAD_SIZE:
        return f"head_size must be a multiple of 8 and at most {MAX_HEAD_SIZE}, got {size}"
    return None


def is_causal(pattern: Pattern, length: int) -> bool:
    """Return True if every position attends to all positions up to itself."""
    return pattern.kind == "full" or length <= pattern.context


def cudnn_attention(
    q: Float[Array, "B N L H"], k: Float[Array, "B N L H"], v: Float[Array, "B N L H"], pattern: Pattern
) -> Float[Array, "B N L H"]:
    """Compute self-attention over a stream under the mask of ``pattern``, with the softmax in float32."""
    length = q.shape[2]
    q, k, v = (x.swapaxes(1, 2) for x in (q, k, v))  # [B L N H]
    if is_causal(pattern, length):
        out = _causal(q, k, v)
    elif (blocks := image_blocks(pattern)).seen.size < MAX_PAIR_SHARE * length**2:
        out = _in_blocks(q, k, v, pattern, blocks)
    else:
        out = _masked(q, k, v, pattern.mask(length))
    return out.swapaxes(1, 2)


def _kernel(q: Array, k: Array, v: Array, mask: Array | None = None) -> Array:
    """Call the kernel on queries [B L N H] and keys [B S N H]; causal if ``mask`` is None."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=mask is None, implementation="cudnn")


def _even(x: Array) -> Array:
    """Pad L of [B L N H] at its end to an even number; the kernel's gradient does not support odd ones."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))


def _causal(q: Array, k: Array, v: Array) -> Array:
    """Compute causal attention. No real position attends to the padding, which comes last."""
    return _kernel(_even(q), _even(k), _even(v))[:, : q.shape[1]]


def _masked(q: Array, k: Array, v: Array, mask: np.ndarray) -> Array:
    """Compute attention over all pairs under a mask [L L]. A padding position attends to itself only."""
    length = len(mask)
    whole = np.eye(length + length % 2, dtype=bool)
    whole[:length, :length] = mask
    return _kernel(_even(q), _even(k), _even(v), jnp.asarray(whole)[None, None])[:, :length]


class ImageBlocks(NamedTuple):
    """The mask of image tokens in blocks: ``seen``, bool [blocks size S]. Column attention uses column-major order.

    The keys of a block are the context, ``reach`` image tokens before the block, and the block's own. ``spare`` masked
    keys follow, so that the number of keys is even.
    """

    seen: np.ndarray
    reach: int
    spare: int


@functools.lru_cache(maxsize=8)
def image_blocks(pattern: Pattern) -> ImageBlocks:
    """Cut the mask of a pattern's image tokens into blocks."""
    (height, width), context = pattern.grid, pattern.context
    if pattern.kind == "column":
        mask, size = pattern.transposed_mask(), block_size(width, height, BLOCK)
    else:
        mask = pattern.mask(context + pattern.positions)
        size = block_size(height, width, max(BLOCK, len(pattern.distances()) - 1))
    near, reach = windows(mask[context:, context:], size)
    spare = (context + near.shape[2]) % 2  # the kernel needs an even number of keys
    return ImageBlocks(np.pad(near, ((0, 0), (0, 0), (context, 0)), constant_values=True), reach, spare)


def _in_blocks(q: Array, k: Array, v: Array, pattern: Pattern, blocks: ImageBlocks) -> Array:
    """Compute attention in blocks; q, k and v are [B L N H].

    The context is one causal call. All blocks of image tokens are a second call, in which blocks are batch entries.
    """
    (rows, length, heads, width), context = q.shape, pattern.context
    count, size, _ = blocks.seen.shape
    columns = pattern.kind == "column"
    q, k, v = (jnp.pad(x, ((0, 0), (0, context + pattern.positions - length), (0, 0), (0, 0))) for x in (q, k, v))
    if columns:
        q, k, v = (_transposed(x, context, pattern.grid) for x in (q, k, v))
    first = _causal(q[:, :context], k[:, :context], v[:, :context])

    def keys(x: Array) -> Array:
        shared = jnp.broadcast_to(x[:, None, :context], (rows, count, context, heads, width))
        own = x[:, context:].reshape(rows, count, size, heads, width)
        before = jnp.pad(own[:, :-1, size - blocks.reach :], ((0, 0), (1, 0), (0, 0), (0, 0), (0, 0)))
        parts = [shared, before, own] if blocks.reach else [shared, own]
        whole = jnp.pad(jnp.concatenate(parts, axis=2), ((0, 0), (0, 0), (0, blocks.spare), (0, 0), (0, 0)))
        return whole.reshape(rows * count, -1, heads, width)  # [B*blocks S N H]

    seen = jnp.pad(jnp.asarray(blocks.seen), ((0, 0), (0, 0), (0, blocks.spare)))
    seen = jnp.broadcast_to(seen, (rows, *seen.shape)).reshape(rows * count, 1, size, -1)
    image = _kernel(q[:, context:].reshape(rows * count, size, heads, width), keys(k), keys(v), seen)
    out = jnp.concatenate([first, image.reshape(rows, count * size, heads, width)], axis=1)
    return (_transposed(out, context, pattern.grid[::-1]) if columns else out)[:, :length]


def _transposed(x: Array, context: int, lines: tuple[int, int]) -> Array:
    """Transpose the grid of image tokens in [B C+I N H], as ``transpose_grid`` does for [B N C+I H]."""
    image = x[:, context:].reshape(x.shape[0], *lines, *x.shape[2:]).swapaxes(1, 2)
    return jnp.concatenate([x[:, :context], image.reshape(x.shape[0], -1, *x.shape[2:])], axis=1)
