"""Attention on a CPU, where skipped work is saved work.

Queries are taken in blocks that are given only the keys some of them may see, found from the mask; the results are
those of the masked product over all pairs, to rounding.
"""

import itertools
from functools import partial
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.attend_dense import FAR_BELOW
from dalle_jax.layers.attention_masks import Pattern, transpose_grid


@jax.custom_vjp
def _lean_attention(q: Array, k: Array, v: Array, mask: Array) -> Array:
    """As ``dense_attention`` with a mask [L S], with few passes over the scores, forward and backward."""
    return _lean_forward(q, k, v, mask)[0]


def _lean_forward(q: Array, k: Array, v: Array, mask: Array) -> tuple[Array, tuple[Array, ...]]:
    scores = jnp.einsum("bnlh,bnsh->bnls", q * q.shape[-1] ** -0.5, k, preferred_element_type=jnp.float32)
    scores = jnp.where(mask, scores, FAR_BELOW)
    weights = jnp.exp(scores - scores.max(axis=-1, keepdims=True))  # [B N L S], not normalised
    total = weights.sum(axis=-1, keepdims=True)  # [B N L 1]
    out = jnp.einsum("bnls,bnsh->bnlh", weights.astype(v.dtype), v) / total.astype(v.dtype)
    return out, (q, k, v, weights, total, out)


def _lean_backward(residuals: tuple[Array, ...], gradient: Array) -> tuple[Array | None, ...]:
    q, k, v, weights, total, out = residuals
    gradient = gradient / total.astype(gradient.dtype)
    inner = (gradient * out).sum(axis=-1, keepdims=True)  # [B N L 1]
    to_v = jnp.einsum("bnls,bnlh->bnsh", weights.astype(v.dtype), gradient)
    to_scores = weights * (jnp.einsum("bnlh,bnsh->bnls", gradient, v) - inner)
    to_scores = to_scores.astype(q.dtype) * q.shape[-1] ** -0.5
    to_q = jnp.einsum("bnls,bnsh->bnlh", to_scores, k)
    to_k = jnp.einsum("bnls,bnlh->bnsh", to_scores, q)
    return to_q, to_k, to_v, None


_lean_attention.defvjp(_lean_forward, _lean_backward)


def blockwise_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B N L H"],
    v: Float[Array, "B N L H"],
    mask: np.ndarray,
    starts: tuple[int, ...],
) -> Float[Array, "B N L H"]:
    """Attention under a static mask [L L], query blocks beginning at ``starts`` (the first is 0).

    Keys that no query of a block sees are left out at both ends and between the first block (the context) and the
    first image token that is seen.
    """
    context = starts[1] if len(starts) > 1 else 0
    ends = (*starts[1:], q.shape[2])
    pieces: list[Pieces] = []
    for begin, end in zip(starts, ends, strict=True):
        seen = np.flatnonzero(mask[begin:end, context:end].any(axis=0)) + context
        first = int(seen[0]) if begin and len(seen) else context
        pieces.append(((0, end),) if first == context or not begin else ((0, context), (first, end)))
    queries = jax.lax.split(q, tuple(end - begin for begin, end in zip(starts, ends, strict=True)), 2)
    keys, values = _take(k, tuple(pieces)), _take(v, tuple(pieces))
    blocks = []
    for i, (begin, end) in enumerate(zip(starts, ends, strict=True)):
        columns = np.concatenate([mask[begin:end, a:b] for a, b in pieces[i]], axis=1)
        blocks.append(_lean_attention(queries[i], keys[i], values[i], jnp.asarray(columns)))
    return jnp.concatenate(blocks, axis=2)


Pieces: TypeAlias = tuple[tuple[int, int], ...]
"""Ranges of positions, in order."""


@partial(jax.custom_vjp, nondiff_argnums=(1,))
def _take(x: Float[Array, "B N L H"], blocks: tuple[Pieces, ...]) -> tuple[Float[Array, "B N S H"], ...]:
    """For each block, its pieces of ``x`` joined.

    JAX's gradient of slices is a sum of padded arrays, which XLA on a CPU computes with a branch for each element; here
    it is written out as sums over stretches that are joined.
    """
    taken = [[jax.lax.slice_in_dim(x, *piece, axis=2) for piece in pieces] for pieces in blocks]
    return tuple(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2) for parts in taken)


def _take_forward(x: Array, blocks: tuple[Pieces, ...]) -> tuple[tuple[Array, ...], None]:
    return _take(x, blocks), None


def _take_backward(blocks: tuple[Pieces, ...], _: None, gradients: tuple[Array, ...]) -> tuple[Array]:
    bounds = sorted({bound for pieces in blocks for piece in pieces for bound in piece})
    stretches = []
    for begin, end in itertools.pairwise(bounds):
        parts = []
        for pieces, gradient in zip(blocks, gradients, strict=True):
            offset = 0
            for a, b in pieces:
                if a <= begin and end <= b:
                    parts.append(jax.lax.slice_in_dim(gradient, offset + begin - a, offset + end - a, axis=2))
                offset += b - a
        stretches.append(sum(parts[1:], parts[0]))
    return (jnp.concatenate(stretches, axis=2),)


_take.defvjp(_take_forward, _take_backward)


def _block_starts(context: int, length: int, unit: int) -> tuple[int, ...]:
    """The context is one block, the image tokens blocks of whole units (rows), about 64 tokens and at most 8 blocks."""
    image = length - context
    size = -(-max(64, -(-image // 8)) // unit) * unit
    return (0, *range(context, length, size)) if context < length else (0,)


def _column_blocks(q: Array, k: Array, v: Array, pattern: Pattern) -> Array:
    """Column attention with the image tokens transposed, so that a column's tokens are neighbours."""
    length, (height, width) = q.shape[2], pattern.grid
    whole = pattern.context + pattern.positions
    q, k, v = (
        transpose_grid(jnp.pad(x, ((0, 0), (0, 0), (0, whole - length), (0, 0))), pattern.context, (height, width))
        for x in (q, k, v)
    )
    out = blockwise_attention(q, k, v, pattern.transposed_mask(), _block_starts(pattern.context, whole, height))
    return transpose_grid(out, pattern.context, (width, height))[:, :, :length]


def block_attention(
    q: Float[Array, "B N L H"], k: Float[Array, "B N L H"], v: Float[Array, "B N L H"], pattern: Pattern
) -> Float[Array, "B N L H"]:
    """Attention of a stream (context, then codes) to itself under ``pattern``."""
    length = q.shape[2]
    if pattern.kind == "column" and length > pattern.context:
        return _column_blocks(q, k, v, pattern)
    return blockwise_attention(q, k, v, pattern.mask(length), _block_starts(pattern.context, length, pattern.grid[1]))
