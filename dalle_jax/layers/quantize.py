"""Vector quantisation with an EMA codebook (van den Oord et al. 2017, arXiv 1711.00937, appendix A.1).

Unused codes are revived: they move to encoder outputs drawn in proportion to their squared quantisation error. Revival
is our own addition.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.parallel.axes import CODES
from dalle_jax.parallel.layout import platform

EMPTY = 1e-20
"""The count up to which a code has had no inputs: its vector stays as it is."""


class Codebook(nnx.Variable):
    """The state of a codebook: not a parameter; it has no gradient, and the module updates it in training."""


class Assignments(NamedTuple):
    """The inputs of a quantizer, their codes, and their squared distances: the statistics that update a codebook.

    They have no gradients. The first axis of each array is the batch.
    """

    inputs: Float[Array, "B ... c"]
    codes: Int[Array, "B ..."]
    errors: Float[Array, "B ..."]


class QuantizerOutput(NamedTuple):
    """The result of quantisation.

    ``nearest`` are the vectors of the codes, without gradient. ``vectors`` are the same values, with a straight-through
    gradient to the inputs. ``histogram`` counts each code in the batch.
    """

    vectors: Float[Array, "B ... c"]
    nearest: Float[Array, "B ... c"]
    assignments: Assignments
    histogram: Float[Array, " K"]


class CodebookState(NamedTuple):
    """A codebook: ``vectors`` = ``sums`` / ``counts``, which are moving averages over batches.

    A code without inputs so far keeps its first vector.
    """

    vectors: Float[Array, "K c"]
    counts: Float[Array, " K"]
    sums: Float[Array, "K c"]


def straight_through(x: Float[Array, "..."], quantized: Float[Array, "..."]) -> Float[Array, "..."]:
    """Return ``quantized`` with a straight-through gradient to ``x``."""
    return x + jax.lax.stop_gradient(quantized - x)


def squared_distances(x: Float[Array, "n c"], vectors: Float[Array, "K c"]) -> Float[Array, "n K"]:
    """Compute |x - e|^2 with one float32 matrix product; rounding may leave it slightly below zero."""
    x, vectors = x.astype(jnp.float32), vectors.astype(jnp.float32)
    cross = jnp.matmul(x, vectors.T, precision=jax.lax.Precision.HIGHEST)  # [n K]
    return (x * x).sum(-1)[:, None] - 2 * cross + (vectors * vectors).sum(-1)


def argmin_and_min(x: Float[Array, "n K"]) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Return the argmin and min of each row, as two plain reductions; ``argmin`` is slower in XLA on a CPU."""
    smallest = x.min(axis=-1)
    index = jnp.arange(x.shape[-1])
    return jnp.where(x <= smallest[:, None], index, x.shape[-1] - 1).min(axis=-1), smallest


def code_totals(
    x: Float[Array, "n c"], codes: Int[Array, " n"], size: int
) -> tuple[Float[Array, " K"], Float[Array, "K c"]]:
    """Return the number of rows of ``x`` that have each code, and the sum of these rows.

    A CPU uses a segment sum; other platforms use a product with one-hot rows.
    """
    if platform() == "cpu":
        ones = jnp.ones(codes.shape, x.dtype)
        return jax.ops.segment_sum(ones, codes, size), jax.ops.segment_sum(x, codes, size)
    assigned = jax.nn.one_hot(codes, size, dtype=x.dtype)  # [n K]
    return assigned.sum(0), jnp.matmul(assigned.T, x, precision=jax.lax.Precision.HIGHEST)


def ema_update(
    state: CodebookState, batch_counts: Float[Array, " K"], batch_sums: Float[Array, "K c"], decay: float
) -> CodebookState:
    """Update the moving averages by one batch (appendix A.1)."""
    counts = decay * state.counts + (1 - decay) * batch_counts
    sums = decay * state.sums + (1 - decay) * batch_sums
    means = sums / jnp.maximum(counts, EMPTY)[:, None]
    vectors = jnp.where(counts[:, None] > EMPTY, means, state.vectors)
    return CodebookState(vectors=vectors, counts=counts, sums=sums)


def revive(
    state: CodebookState, x: Float[Array, "n c"], errors: Float[Array, " n"], below: float, key: Key[Array, ""]
) -> CodebookState:
    """Move codes with a count below ``below`` times the mean to rows of ``x`` drawn in proportion to ``errors``.

    Rows are drawn without replacement (Gumbel-top-k, arXiv 1903.06059, section 2.3), so no two codes get the same row.
    If more than n codes are dead, n of them move. A revived code gets the mean count, so it is not revived again at
    once. At the first batch nearly all codes are dead, so this also initialises the codebook from data.
    """
    size, most = state.counts.shape[0], min(state.counts.shape[0], x.shape[0])
    mean_count = state.counts.sum() / size
    noise = jax.random.gumbel(key, errors.shape)
    drawn = jax.lax.top_k(jnp.log(jnp.maximum(errors, 0) + 1e-12) + noise, most)[1]
    dead = state.counts < below * mean_count
    number = jnp.cumsum(dead) - 1  # [K], the number of a dead code among the dead
    moved = dead & (number < most)
    rows = drawn[jnp.clip(number, 0, most - 1)]  # [K]
    vectors = jnp.where(moved[:, None], x[rows], state.vectors)
    counts = jnp.where(moved, mean_count, state.counts)
    return CodebookState(
        vectors=vectors, counts=counts, sums=jnp.where(moved[:, None], vectors * counts[:, None], state.sums)
    )


class Quantizer(nnx.Module):
    """A vector quantiser: each input becomes the nearest vector of a codebook [K c].

    ``decay`` is the decay of the moving averages. A code is dead, and is revived, if its count is below
    ``revive_below`` times the mean count. With 0 no code is revived; codes without inputs keep their vectors.
    """

    def __init__(self, size: int, width: int, *, decay: float, revive_below: float, rngs: nnx.Rngs):
        self.decay, self.revive_below = decay, revive_below
        self.vectors = Codebook(jax.random.normal(rngs.params(), (size, width)), axes=(CODES, None))
        self.counts = Codebook(jnp.zeros(size), axes=(CODES,))
        self.sums = Codebook(jnp.zeros((size, width)), axes=(CODES, None))

    def __call__(self, x: Float[Array, "B ... c"]) -> QuantizerOutput:
        """Quantise ``x``. The codebook is not changed; ``follow`` updates it for the next call."""
        x = x.astype(jnp.float32)
        flat = jax.lax.stop_gradient(x).reshape(-1, x.shape[-1])  # [n c]
        vectors = self.vectors[...]
        codes, errors = argmin_and_min(squared_distances(flat, vectors))  # [n] [n]
        nearest = vectors[codes].reshape(x.shape)
        histogram = code_totals(flat, codes, vectors.shape[0])[0]
        shape = x.shape[:-1]
        assignments = Assignments(flat.reshape(x.shape), codes.reshape(shape), errors.reshape(shape))
        return QuantizerOutput(straight_through(x, nearest), nearest, assignments, histogram)

    def follow(self, assignments: Assignments, key: Key[Array, ""]) -> None:
        """Update the codebook from the assignments of a whole batch, and revive dead codes at random with ``key``."""
        flat = assignments.inputs.reshape(-1, assignments.inputs.shape[-1])  # [n c]
        codes, errors = assignments.codes.reshape(-1), assignments.errors.reshape(-1)
        vectors = self.vectors[...]
        state = CodebookState(vectors, self.counts[...], self.sums[...])
        state = ema_update(state, *code_totals(flat, codes, vectors.shape[0]), self.decay)
        self.vectors[...], self.counts[...], self.sums[...] = revive(state, flat, errors, self.revive_below, key)

    def encode(self, x: Float[Array, "... c"]) -> Int[Array, "..."]:
        """Return the codes of the nearest vectors."""
        flat = x.reshape(-1, x.shape[-1])
        return argmin_and_min(squared_distances(flat, self.vectors[...]))[0].reshape(x.shape[:-1])

    def lookup(self, codes: Int[Array, "..."]) -> Float[Array, "... c"]:
        """Return the vectors of codes."""
        return jnp.take(self.vectors[...], codes, axis=0, mode="clip")
