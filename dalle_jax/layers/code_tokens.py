"""The codes of an image tokenizer as tokens: how a transformer reads them and how it predicts them.

As published, both are tables with one learned row per code. A code of a VQ-VAE is not an arbitrary symbol, though: its
vector in the tokenizer's codebook says what it looks like, and codes that look alike stand close together. With
``code_width`` set, a small network over those frozen vectors is added to each table, so that what is learned of one
code carries over to its neighbours: a red corner is known from a blue one. docs/architecture.md has what it gave.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.layers.embeddings import Embedding, lookup
from dalle_jax.layers.linear import Initializer, Linear, project
from dalle_jax.parallel.axes import CODES, EMBED, MLP

HIDDEN = 512
"""The width of the network over code vectors."""
EMBEDDING_SCALE = 0.3
"""Of what the network adds to the table that is read: rows of that table start at a length of 0.02 a dimension."""


class CodeVectors(nnx.Variable):
    """The tokenizer's code vectors, standardised: data, not a parameter."""


class CodeFeatures(nnx.Module):
    """``W2 gelu(W1 v + b1) + b2`` for the vector v of every code."""

    def __init__(self, size: int, code_width: int, width: int, *, rngs: nnx.Rngs):
        self.vectors = CodeVectors(jnp.zeros((size, code_width)), axes=(CODES, None))
        self.up = Linear(code_width, HIDDEN, axes=(None, EMBED), rngs=rngs)  # so that fsdp splits it too
        self.down = Linear(HIDDEN, width, axes=(MLP, EMBED), rngs=rngs)

    def __call__(self) -> Float[Array, "K D"]:
        """The features of all codes, float32."""
        return self.down(jax.nn.gelu(self.up(self.vectors[...])))


class CodeTokens(nnx.Module):
    """Embedding and prediction of K codes; ``code_width`` is that of the tokenizer's vectors, 0 for tables alone."""

    def __init__(
        self, size: int, width: int, *, code_width: int, bias: bool, dtype: Any, init: Initializer | None = None,
        init_head: Initializer | None = None, rngs: nnx.Rngs,
    ):  # fmt: skip
        self.dtype = jnp.dtype(dtype)
        self.embedding = Embedding(size, width, axis=CODES, dtype=dtype, init=init, rngs=rngs)
        self.head = Linear(
            width, size, axes=(EMBED, CODES), bias=bias, dtype=dtype, out_dtype=jnp.float32,
            init=nnx.initializers.zeros if code_width else init_head or init, rngs=rngs,
        )  # fmt: skip
        read = CodeFeatures(size, code_width, width, rngs=rngs) if code_width else None
        predicted = CodeFeatures(size, code_width, width, rngs=rngs) if code_width else None
        self.read, self.predicted = nnx.data(read), nnx.data(predicted)

    def set_code_vectors(self, vectors: Float[Array, "K c"]) -> None:
        """Takes the tokenizer's code vectors, brought to mean 0 in each dimension and variance 1 over all."""
        if self.read is None or self.predicted is None:
            raise ValueError("tokens with code_width 0 do not look at code vectors")
        vectors = (vectors - vectors.mean(axis=0)) / vectors.std()
        self.read.vectors[...], self.predicted.vectors[...] = vectors, vectors

    def embed(self, codes: Int[Array, "..."]) -> Float[Array, "... D"]:
        """The vectors of codes; a code outside the table is clipped to the nearest."""
        if self.read is None:
            return self.embedding(codes)
        table = self.embedding.table[...] + EMBEDDING_SCALE * self.read()
        return lookup(table, codes, self.dtype)

    def predict(self, x: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Logits in float32."""
        if self.predicted is None:
            return self.head(x)
        kernel = self.head.kernel[...] + self.predicted().T * x.shape[-1] ** -0.5  # [D K]
        logits = project(x.astype(self.dtype), kernel, 1, "float32")
        return logits if self.head.bias is None else logits + self.head.bias[...]

    def fold(self) -> None:
        """Adds what the networks give to the tables and drops them: the same tokens, without the work at each step.

        The model's config goes on saying what it was trained with.
        """
        if self.read is None or self.predicted is None:
            return
        width = self.embedding.table[...].shape[-1]
        self.embedding.table[...] += EMBEDDING_SCALE * self.read()
        self.head.kernel[...] += self.predicted().T * width**-0.5
        self.read, self.predicted = nnx.data(None), nnx.data(None)
