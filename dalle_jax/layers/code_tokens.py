"""Input embeddings and output logits of an image tokenizer's codes in a transformer.

DALL·E uses two learned tables with one row per code. A VQ-VAE's code is not an arbitrary symbol, though: similar codes
have similar vectors in the tokenizer's codebook. With ``code_width`` set, an MLP over those frozen vectors is added to
each table. The transformer then generalises between similar codes, such as a red corner and a blue one. This is our own
addition; docs/architecture.md has its measured effect.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.layers.embeddings import Embedding, lookup
from dalle_jax.layers.linear import Initializer, Linear, project
from dalle_jax.parallel.axes import CODES, EMBED, MLP

HIDDEN = 512
"""The hidden width of the MLP over code vectors."""
EMBEDDING_SCALE = 0.3
"""The factor of the MLP's output in the input embedding, whose table starts at a standard deviation of 0.02."""


class CodeVectors(nnx.Variable):
    """The tokenizer's standardised code vectors: data, not a parameter."""


class CodeFeatures(nnx.Module):
    """An MLP over code vectors: ``W2 gelu(W1 v + b1) + b2`` for the vector v of every code."""

    def __init__(self, size: int, code_width: int, width: int, *, rngs: nnx.Rngs):
        self.vectors = CodeVectors(jnp.zeros((size, code_width)), axes=(CODES, None))
        self.up = Linear(code_width, HIDDEN, axes=(None, EMBED), rngs=rngs)  # EMBED, so that fsdp shards it too
        self.down = Linear(HIDDEN, width, axes=(MLP, EMBED), rngs=rngs)

    def __call__(self) -> Float[Array, "K D"]:
        """Compute the features of all codes, in float32."""
        return self.down(jax.nn.gelu(self.up(self.vectors[...])))


class CodeTokens(nnx.Module):
    """The input embedding and the logits of K codes.

    ``code_width`` is the width of the tokenizer's code vectors; 0 uses the tables alone.
    """

    def __init__(
        self, size: int, width: int, *, code_width: int, bias: bool, dtype: DTypeLike, init: Initializer | None = None,
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
        """Store the tokenizer's code vectors, with mean 0 in each dimension and variance 1 over all values."""
        if self.read is None or self.predicted is None:
            raise ValueError("code vectors: expected code_width > 0, got code_width 0, a model without code vectors")
        vectors = (vectors - vectors.mean(axis=0)) / vectors.std()
        self.read.vectors[...], self.predicted.vectors[...] = vectors, vectors

    def embed(self, codes: Int[Array, "..."]) -> Float[Array, "... D"]:
        """Return the embeddings of codes; a code outside the table is clipped to the nearest row."""
        if self.read is None:
            return self.embedding(codes)
        table = self.embedding.table[...] + EMBEDDING_SCALE * self.read()
        return lookup(table, codes, self.dtype, CODES)

    def predict(self, x: Float[Array, "... D"]) -> Float[Array, "... K"]:
        """Return the logits of all codes, in float32."""
        return self.predictor()(x)

    def predictor(self) -> Callable[[Float[Array, "... D"]], Float[Array, "... K"]]:
        """Return ``predict`` as a function that has computed the table of logits, for calls in a loop."""
        if self.predicted is None:
            return self.head
        kernel = self.head.kernel[...]
        kernel = kernel + self.predicted().T * kernel.shape[0] ** -0.5  # [D K]

        def predict(x: Float[Array, "... D"]) -> Float[Array, "... K"]:
            logits = project(x.astype(self.dtype), kernel, 1, "float32")
            return logits if self.head.bias is None else logits + self.head.bias[...]

        return predict

    def fold(self) -> None:
        """Add the MLPs' outputs to the tables and drop the MLPs, so that inference does not recompute them.

        Embeddings and logits stay the same. The model's config keeps the ``code_width`` of training.
        """
        if self.read is None or self.predicted is None:
            return
        width = self.embedding.table[...].shape[-1]
        self.embedding.table[...] += EMBEDDING_SCALE * self.read()
        self.head.kernel[...] += self.predicted().T * width**-0.5
        self.read, self.predicted = nnx.data(None), nnx.data(None)
