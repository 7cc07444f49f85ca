"""Attention on an NVIDIA GPU by cuDNN's fused kernel, which ``jax.nn.dot_product_attention`` calls.

Full attention is the kernel's own causal form, which skips what no query sees. The kernel skips nothing under a mask,
so of the other kinds only those pairs go in that are near each other: image tokens in blocks, each with the context and
with as many tokens before it as any block needs (as in attend_blocks.py). Where that saves little, all pairs go in with
a mask that rows and heads share. In neither form are scores stored.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attend_blocks import block_size, windows
from dalle_jax.layers.attention_masks import Pattern

MAX_HEAD_SIZE = 128
"""What every GPU with the kernel takes (Hopper takes 256); a head's width is a multiple of 8."""

BLOCK = 128
"""Image tokens that are taken together, at least: what the kernel computes at once."""

MAX_PAIR_SHARE = 0.5
"""Blocks are taken where they leave less than this share of all pairs: keys that several blocks see are copied."""


def cudnn_obstacle(q: Float[Array, "B N L H"]) -> str | None:
    """Why the kernel cannot compute this, or None."""
    size = q.shape[3]
    if q.dtype not in (jnp.bfloat16, jnp.float16):
        return f"it computes in bfloat16 or float16, got {q.dtype}"
    if size % 8 or size > MAX_HEAD_SIZE:
        return f"head_size must be a multiple of 8 and at most {MAX_HEAD_SIZE}, got {size}"
    return None


def is_causal(pattern: Pattern, length: int) -> bool:
    """Whether every position sees all positions up to itself."""
    return pattern.kind == "full" or length <= pattern.context


def cudnn_attention(
    q: Float[Array, "B N L H"], k: Float[Array, "B N L H"], v: Float[Array, "B N L H"], pattern: Pattern
) -> Float[Array, "B N L H"]:
    """Attention of a stream to itself under ``pattern``; softmax in float32."""
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
    """Queries [B L N H] to keys [B S N H]; causal without a mask."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=mask is None, implementation="cudnn")


def _even(x: Array) -> Array:
    """[B L N H] with L made even at its end: the kernel's gradient takes no odd number of queries or keys."""
    return jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))


def _causal(q: Array, k: Array, v: Array) -> Array:
    """Every position sees itself and those before it, so none of them what was added at the end."""
    return _kernel(_even(q), _even(k), _even(v))[:, : q.shape[1]]


def _masked(q: Array, k: Array, v: Array, mask: np.ndarray) -> Array:
    """All pairs under a mask [L L]; what was added at the end sees itself alone."""
    length = len(mask)
    whole = np.eye(length + length % 2, dtype=bool)
    whole[:length, :length] = mask
    return _kernel(_even(q), _even(k), _even(v), jnp.asarray(whole)[None, None])[:, :length]


class ImageBlocks(NamedTuple):
    """``seen``, bool [blocks size S]: which keys the image tokens of each block see, columns taken in their own order.

    The keys are the context, ``reach`` image tokens before the block, its own, and ``spare`` that none sees.
    """

    seen: np.ndarray
    reach: int
    spare: int


@functools.lru_cache(maxsize=8)
def image_blocks(pattern: Pattern) -> ImageBlocks:
    """The blocks of a pattern's image tokens."""
    (height, width), context = pattern.grid, pattern.context
    if pattern.kind == "column":
        mask, size = pattern.transposed_mask(), block_size(width, height, BLOCK)
    else:
        mask = pattern.mask(context + pattern.positions)
        size = block_size(height, width, max(BLOCK, len(pattern.distances()) - 1))
    near, reach = windows(mask[context:, context:], size)
    spare = (context + near.shape[2]) % 2  # the kernel takes an even number of keys
    return ImageBlocks(np.pad(near, ((0, 0), (0, 0), (context, 0)), constant_values=True), reach, spare)


def _in_blocks(q: Array, k: Array, v: Array, pattern: Pattern, blocks: ImageBlocks) -> Array:
    """[B L N H] each: the context by itself, then all blocks of image tokens at once, as if they were examples."""
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
    """[B C+I N H] with the codes from lines of ``lines[1]`` to lines of ``lines[0]``."""
    image = x[:, context:].reshape(x.shape[0], *lines, *x.shape[2:]).swapaxes(1, 2)
    return jnp.concatenate([x[:, :context], image.reshape(x.shape[0], -1, *x.shape[2:])], axis=1)
