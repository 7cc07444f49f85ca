"""The one-step prior of ECLIPSE: a transformer that regresses the image vector from the text (arXiv 2312.04655).

The sequence is  text states (T), text vector, learned token;  the output at the learned token is the normalised image
vector. It draws no noise, so all vectors of one prompt are equal. Letters are those of prior.py; D width.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.layers.embeddings import Embedding, EmbeddingParam, broadcast_param
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.remat import Remat
from dalle_jax.layers.stack import Stack
from dalle_jax.models.clip import ClipBlock, TowerConfig, run_stack, unit
from dalle_jax.models.priors.prior import (
    ImageStatistics,
    MeasuredStatistic,
    PriorOptions,
    TextCondition,
    causal_mask,
)
from dalle_jax.parallel.axes import EMBED, POSITIONS


@dataclass(frozen=True)
class OneStepPriorConfig:
    """Sizes and options of the network; the fields are those of ``DiffusionPriorConfig``."""

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

    def build(self, rngs: nnx.Rngs) -> "OneStepPrior":
        """Create the network with newly initialised weights."""
        return OneStepPrior(self, rngs=rngs)


class OneStepPrior(nnx.Module):
    """A regression of the image vector from the text. Implements ``Prior``."""

    def __init__(self, config: OneStepPriorConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, embed, dtype = config.width, config.embed_width, config.dtype
        self.text_in = Linear(config.text_width, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.vector_in = Linear(embed, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.query = EmbeddingParam(init(rngs.params(), (width,), jnp.float32), axes=(EMBED,))
        length = config.text_length + 2
        self.positions = Embedding(length, width, axis=POSITIONS, init=init, dtype=dtype, rngs=rngs)
        tower = TowerConfig(width, config.depth, config.heads)

        def make_block(rngs: nnx.Rngs) -> ClipBlock:
            return ClipBlock(tower, activation="gelu", dtype=dtype, rngs=rngs)

        self.stack = Stack(make_block, (None,) * config.depth, scan=config.scan, remat=config.remat, rngs=rngs)
        self.norm = LayerNorm(width, dtype=dtype)
        self.head = Linear(width, embed, axes=(EMBED, None), dtype=dtype, out_dtype=jnp.float32, rngs=rngs)
        self.mean = MeasuredStatistic(jnp.zeros(embed), axes=(None,))
        self.std = MeasuredStatistic(jnp.ones(embed), axes=(None,))

    @property
    def unit_vectors(self) -> bool:
        """True if text and image vectors have length 1."""
        return self.config.unit_vectors

    def set_statistics(self, found: ImageStatistics) -> None:
        """Store the measured statistics of the image vectors."""
        self.mean[...], self.std[...] = found.mean, found.std

    def normalise(self, image: Float[Array, "... E"]) -> Float[Array, "... E"]:
        """Map image vectors to mean 0 and variance 1 in each dimension."""
        return (image - self.mean[...]) / self.std[...]

    def denormalise(self, x0: Float[Array, "... E"]) -> Float[Array, "... E"]:
        """Invert ``normalise``; the result has length 1 with ``unit_vectors``."""
        image = x0 * self.std[...] + self.mean[...]
        return unit(image) if self.unit_vectors else image

    def __call__(self, text: TextCondition) -> Float[Array, "B E"]:
        """Predict the normalised image vector."""
        rows = text.vector.shape[0]
        vector = text.vector * (self.config.embed_width**0.5 if self.unit_vectors else 1.0)
        single = [self.vector_in(vector), broadcast_param(self.query[...], rows, self.config.dtype)]
        tokens = jnp.concatenate([self.text_in(text.states), jnp.stack(single, axis=1)], axis=1)  # [B L D]
        tokens = run_stack(self.stack, tokens + self.positions.all(rows), causal_mask(text.mask, len(single)))
        return self.head(self.norm(tokens[:, -1]))

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Return the predicted vector of each prompt, M times."""
        del empty, options
        return jnp.repeat(self.denormalise(self(text))[:, None], keys.shape[1], axis=1)
