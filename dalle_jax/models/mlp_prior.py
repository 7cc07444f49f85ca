"""MLP prior: a diffusion prior p(CLIP image embedding | text embedding) without a transformer.

DALL·E 2's prior (arXiv 2204.06125, section 2.2) is a causal transformer over the caption that predicts x0 by mean
squared error. This one predicts x0 from the noised image embedding, the time and the text embedding alone, by a
residual MLP: small embeddings need no more, and it trains in a minute on a CPU.

    B batch   T text length   E embedding   D width   F hidden width
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.mlp import Mlp
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.models.clip import unit
from dalle_jax.parallel.axes import EMBED
from dalle_jax.sampling.vector_diffusion import sample_vectors

FREQUENCIES = 2.0 ** np.linspace(0, 6, 32)
"""Radians of the time's sinusoids."""


@dataclass(frozen=True)
class MlpPriorConfig:
    """Sizes of the network: ``layers`` residual MLPs of ``width``, each with ``hidden`` units.

    ``steps`` are the Euler steps of a sample. Of ``samples`` samples the one with the largest cosine with the text
    embedding is kept (DALL·E 2 draws two).
    """

    embed_width: int
    width: int
    hidden: int
    layers: int
    steps: int = 16
    samples: int = 2
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.samples < 1:
            raise ValueError(f"steps, samples: expected at least 1, got {self.steps}, {self.samples}")

    def build(self, rngs: nnx.Rngs) -> "MlpPrior":
        """Create the network with newly initialised weights."""
        return MlpPrior(self, rngs=rngs)


class MlpPriorBlock(nnx.Module):
    """A residual block ``x + mlp(norm(x))``."""

    def __init__(self, config: MlpPriorConfig, *, rngs: nnx.Rngs):
        self.norm = LayerNorm(config.width, dtype=config.dtype)
        branch = nnx.initializers.normal(config.hidden**-0.5 * config.layers**-0.5)
        self.mlp = Mlp(config.width, config.hidden, dtype=config.dtype, init_out=branch, rngs=rngs)

    def __call__(self, x: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """Apply the block."""
        return x + self.mlp(self.norm(x))


class MlpPrior(nnx.Module):
    """The prior. Embeddings are unit vectors; the network sees them times ``scale``, so that a value has variance 1."""

    def __init__(self, config: MlpPriorConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.scale = math.sqrt(config.embed_width)
        inputs = 2 * config.embed_width + 2 * len(FREQUENCIES)
        self.inputs = Linear(inputs, config.width, axes=(None, EMBED), dtype=config.dtype, rngs=rngs)
        self.blocks = nnx.List([MlpPriorBlock(config, rngs=rngs) for _ in range(config.layers)])
        self.norm = LayerNorm(config.width, dtype=config.dtype)
        self.head = Linear(
            config.width, config.embed_width, axes=(EMBED, None), init=nnx.initializers.zeros, dtype=config.dtype,
            out_dtype=jnp.float32, rngs=rngs,
        )  # fmt: skip

    def __call__(
        self, x: Float[Array, "B E"], time: Float[Array, " B"], text_vectors: Float[Array, "B E"]
    ) -> Float[Array, "B E"]:
        """Predict the scaled image embedding from ``x = t scale z + (1 - t) noise``."""
        angles = time[:, None] * FREQUENCIES  # [B f]
        given = [x, self.scale * text_vectors, jnp.cos(angles), jnp.sin(angles)]
        x = self.inputs(jnp.concatenate(given, axis=-1))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def sample(
        self, text: Int[Array, "B T"], text_vectors: Float[Array, "B E"], keys: Key[Array, " B"]
    ) -> Float[Array, "B E"]:
        """Sample a unit vector for each text embedding; implements ``pipelines.unclip.EmbeddingPrior``."""
        del text
        several = jax.vmap(lambda key: jax.random.split(key, self.config.samples))(keys)  # [B n]
        rows = jnp.repeat(text_vectors, self.config.samples, axis=0)  # [B*n E]
        drawn = sample_vectors(
            lambda x, time: self(x, time, rows), several.reshape(-1), self.config.embed_width, self.config.steps
        )
        drawn = unit(drawn).reshape(*several.shape, -1)  # [B n E]
        best = jnp.einsum("bne,be->bn", drawn, text_vectors).argmax(axis=1)
        return jnp.take_along_axis(drawn, best[:, None, None], axis=1)[:, 0]
