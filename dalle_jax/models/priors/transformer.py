"""The transformer of the diffusion prior and of the one-step prior: a text, then single tokens, the last one read.

Layout and arithmetic match the published Karlo. Letters are those of prior.py; D width.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float
from dalle_jax.layers.embeddings import Embedding, EmbeddingParam, broadcast_param
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import Remat
from dalle_jax.layers.stack import Stack
from dalle_jax.models.clip import ClipBlock, TowerConfig, run_stack
from dalle_jax.models.priors.prior import StandardisedVectors, TextCondition
from dalle_jax.parallel.axes import EMBED, POSITIONS


@dataclass(frozen=True)
class PriorTransformerConfig:
    """Sizes and options of the transformer.

    ``embed_width`` and ``text_width`` are CLIP's embedding width and the width of its text tower. With
    ``unit_vectors``, text vectors are given with length 1 and multiplied by sqrt(E), and image vectors have length 1;
    Karlo's vectors are not normalised.
    """

    embed_width: int
    text_width: int
    text_length: int
    width: int
    depth: int
    heads: int
    unit_vectors: bool = True
    scan: bool = False
    remat: Remat = "none"
    dtype: Literal["float32", "bfloat16"] = "float32"


class PriorTransformer(StandardisedVectors):
    """A transformer over a text and single tokens, with the measured statistics of image vectors."""

    def __init__(self, config: PriorTransformerConfig, after_text: int, *, rngs: nnx.Rngs):
        """Create the network; ``after_text`` counts the tokens after the text states."""
        super().__init__(config.embed_width)
        self.config = config
        width, embed, dtype = config.width, config.embed_width, config.dtype
        self.text_in = Linear(config.text_width, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.vector_in = Linear(embed, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.query = EmbeddingParam(init(rngs.params(), (width,), jnp.float32), axes=(EMBED,))
        length = config.text_length + after_text
        self.positions = Embedding(length, width, axis=POSITIONS, init=init, dtype=dtype, rngs=rngs)
        tower = TowerConfig(width, config.depth, config.heads)

        def make_block(rngs: nnx.Rngs) -> ClipBlock:
            return ClipBlock(tower, activation="gelu", dtype=dtype, rngs=rngs)

        self.stack = Stack(make_block, (None,) * config.depth, scan=config.scan, remat=config.remat, rngs=rngs)
        self.norm = LayerNorm(width, dtype=dtype)
        self.head = Linear(width, embed, axes=(EMBED, None), dtype=dtype, out_dtype=jnp.float32, rngs=rngs)

    @property
    def unit_vectors(self) -> bool:
        """True if text and image vectors have length 1."""
        return self.config.unit_vectors

    def sequence(self, text: TextCondition, others: Sequence[Float[Array, "B D"]]) -> Float[Array, "B L D"]:
        """Embed the text, the other tokens and the learned token, with their positions."""
        rows = text.vector.shape[0]
        vector = text.vector * (self.config.embed_width**0.5 if self.unit_vectors else 1.0)
        single = [self.vector_in(vector), *others, broadcast_param(self.query[...], rows, self.config.dtype)]
        tokens = jnp.concatenate([self.text_in(text.states), jnp.stack(single, axis=1)], axis=1)  # [B L D]
        return tokens + self.positions.all(rows)

    def predict(self, tokens: Float[Array, "B L D"], mask: Bool[Array, "B 1 L L"] | None) -> Float[Array, "B E"]:
        """Predict x0 at the learned token; without a mask every position attends to all."""
        return self.head(self.norm(run_stack(self.stack, tokens, mask)[:, -1]))
