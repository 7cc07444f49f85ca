"""Blockwise attention for CPUs, which skips masked pairs.

Queries are processed in blocks. Each block gets only the keys that some of its queries may attend to. The result equals
the masked product over all pairs (``attend.dense_attention``) up to rounding.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attention_masks import MASKED_SCORE, Pattern, transpose_grid
from dalle_jax.layers.linear import precision_of

SPARSE_BLOCK, FULL_BLOCK = 32, 64
"""The least number of image tokens in a block, for sparse and for full attention.

Full attention compiles a program per block, so it uses at most 8 blocks.
"""


@jax.custom_vjp
def _lean_attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """Compute ``dense_attention`` with fewer passes over the scores: q [... L H], k and v [... S H], mask [... L S]."""
    return _lean_forward(q, k, v, mask)[0]


def _lean_forward(q: Array, k: Array, v: Array, mask: Array) -> tuple[Array, tuple[Array, ...]]:
    precision = precision_of(q.dtype)
    q_scaled = q * q.shape[-1] ** -0.5
    scores = jnp.einsum("...lh,...sh->...ls", q_scaled, k, precision=precision, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores, MASKED_SCORE)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))  # [... L S], not normalised
    total = weights.sum(axis=-1, keepdims=True)  # [... L 1]
    out = jnp.einsum("...ls,...sh->...lh", weights.astype(v.dtype), v, precision=precision) / total.astype(v.dtype)
    return out, (q, k, v, weights, total, out)


def _lean_backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    q, k, v, weights, total, out = residuals
    product = partial(jnp.einsum, precision=precision_of(q.dtype))
    gradient = gradient / total.astype(gradient.dtype)
    inner = (gradient * out).sum(axis=-1, keepdims=True)  # [... L 1]
    to_v = product("...ls,...lh->...sh", weights.astype(v.dtype), gradient)
    to_scores = weights * (product("...lh,...sh->...ls", gradient, v) - inner)
    to_scores = to_scores.astype(q.dtype) * q.shape[-1] ** -0.5
    to_q = product("...ls,...sh->...lh", to_scores, k)
    to_k = product("...ls,...lh->...sh", to_scores, q)
    return to_q, to_k, to_v, None


_lean_attention.defvjp(_lean_forward, _lean_backward)


def causal_attention(
    q: Float[Array, "B N L H"], k: Float[Array, "B N L H"], v: Float[Array, "B N L H"], ends: tuple[int, ...]
) -> Float[Array, "B N L H"]:
    """Compute causal attention in blocks of queries that end at ``ends``; the last end is L.

    Each block gets the keys up to its end.
    """
    starts = (0, *ends[:-1])
    queries = jax.lax.split(q, [end - begin for begin, end in zip(starts, ends, strict=True)], 2)
    keys, values = _prefixes(k, ends), _prefixes(v, ends)
    blocks = []
    for i, (begin, end) in enumerate(zip(starts, ends, strict=True)):
        blocks.append(_lean_attention(queries[i], keys[i], values[i], jnp.asarray(np.tri(end, dtype=bool)[begin:])))
    return jnp.concatenate(blocks, axis=2)


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _prefixes(x: Float[Array, "B N L H"], ends: tuple[int, ...]) -> tuple[Float[Array, "B N S H"], ...]:
    """Return the prefix of ``x`` up to each of ``ends``.

    JAX's gradient of several slices is a sum of padded arrays, which XLA on a CPU computes with a branch per element.
    The gradient here sums each segment between two ends, then concatenates the segments.
    """
    return tuple(jax.lax.slice_in_dim(x, 0, end, axis=2) for end in ends)


def _prefixes_forward(x: Array, ends: tuple[int, ...]) -> tuple[tuple[Array, ...], None]:
    return _prefixes(x, ends), None


def _prefixes_backward(ends: tuple[int, ...], _: None, gradients: tuple[Array, ...]) -> tuple[Array]:
    segments = []
    for i, (begin, end) in enumerate(zip((0, *ends[:-1]), ends, strict=True)):
        parts = [jax.lax.slice_in_dim(gradient, begin, end, axis=2) for gradient in gradients[i:]]
        segments.append(sum(parts[1:], parts[0]))
    return (jnp.concatenate(segments, axis=2),)


_prefixes.defvjp(_prefixes_forward, _prefixes_backward)


def windowed_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B N L H"],
    v: Float[Array, "B N L H"],
    mask: np.ndarray,
    context: int,
    size: int,
) -> Float[Array, "B N L H"]:
    """Compute attention under a static mask [L L] in which image tokens attend only to near image tokens.

    The L - context image tokens form blocks of ``size``, which divides their number. All blocks are computed at once.
    Each block gets the context, its own keys and the ``reach`` keys before them (at most ``size``; see ``windows``).
    """
    blocks = (q.shape[2] - context) // size
    near, reach = windows(mask[context:, context:], size)
    seen = np.concatenate([np.ones((blocks, size, context), bool), near], axis=2)
    queries, (keys, values) = _in_blocks(q, context, size), (_with_neighbours(x, context, size, reach) for x in (k, v))
    image = _lean_attention(queries[1], keys[1], values[1], jnp.asarray(seen))  # [B N blocks size H]
    first = _lean_attention(queries[0], keys[0], values[0], jnp.asarray(mask[:context, :context]))
    return jnp.concatenate([first, image.reshape(*first.shape[:2], -1, first.shape[-1])], axis=2)


def windows(mask: np.ndarray, size: int) -> tuple[np.ndarray, int]:
    """Cut a mask [I I] of image tokens into blocks [blocks size reach+size].

    The second result is reach: the largest number of keys before a block that the block attends to.
    """
    count = len(mask)
    starts = range(0, count, size)
    reach = max(start - int(np.flatnonzero(mask[start : start + size].any(axis=0))[0]) for start in starts)
    padded = np.pad(mask, ((0, 0), (reach, 0)))
    return np.stack([padded[start : start + size, start : start + reach + size] for start in starts]), reach


def _in_blocks(x: Array, context: int, size: int) -> tuple[Array, Array]:
    """Split a stream into its context [B N C H] and blocks of image tokens [B N blocks size H].

    The gradient of ``jnp.split`` is a concatenation. The gradient of slices would be a sum of padded arrays.
    """
    first, image = jax.lax.split(x, (context, x.shape[2] - context), 2)
    return first, image.reshape(*x.shape[:2], -1, size, x.shape[-1])


def _with_neighbours(x: Array, context: int, size: int, reach: int) -> tuple[Array, Array]:
    """Return the context [B N C H] and the keys of each block [B N blocks C+reach+size H].

    The keys of a block are the context, the ``reach`` image tokens before the block, and the block's own.
    """
    first, image = _in_blocks(x, context, size)
    shared = jnp.broadcast_to(first[:, :, None], (*image.shape[:3], context, x.shape[-1]))
    if not reach:
        return first, jnp.concatenate([shared, image], axis=3)
    tails = jax.lax.split(image, (size - reach, reach), 3)[1]
    before, _ = jax.lax.split(tails, (tails.shape[2] - 1, 1), 2)
    before = jnp.concatenate([jnp.zeros_like(tails[:, :, :1]), before], axis=2)
    return first, jnp.concatenate([shared, before, image], axis=3)


def block_size(lines: int, unit: int, wanted: int) -> int:
    """Return the smallest block size, at least ``wanted`` tokens, that is a whole number of lines of ``unit`` tokens.

    The number of lines in a block divides ``lines``. If no such block is large enough, all lines form one block.
    """
    return unit * next(n for n in range(1, lines + 1) if lines % n == 0 and (n * unit >= wanted or n == lines))


def _sparse_attention(q: Array, k: Array, v: Array, pattern: Pattern) -> Array:
    """Compute row, column or convolutional attention; column attention transposes the grid first."""
    length, (height, width), context = q.shape[2], pattern.grid, pattern.context
    whole = context + pattern.positions
    q, k, v = (jnp.pad(x, ((0, 0), (0, 0), (0, whole - length), (0, 0))) for x in (q, k, v))
    if pattern.kind != "column":
        size = block_size(height, width, max(SPARSE_BLOCK, len(pattern.distances()) - 1))
        return windowed_attention(q, k, v, pattern.mask(whole), context, size)[:, :, :length]
    q, k, v = (transpose_grid(x, context, (height, width)) for x in (q, k, v))
    out = windowed_attention(q, k, v, pattern.transposed_mask(), context, block_size(width, height, SPARSE_BLOCK))
    return transpose_grid(out, context, (width, height))[:, :, :length]


def block_attention(
    q: Float[Array, "B N L H"], k: Float[Array, "B N L H"], v: Float[Array, "B N L H"], pattern: Pattern
) -> Float[Array, "B N L H"]:
    """Compute self-attention over a stream (context, then codes) under the mask of ``pattern``."""
    length, context = q.shape[2], pattern.context
    if pattern.kind != "full" and length > context:
        return _sparse_attention(q, k, v, pattern)
    size = block_size(*pattern.grid, max(FULL_BLOCK, pattern.positions // 8))
    return causal_attention(q, k, v, (*range(context, length, size), length))
