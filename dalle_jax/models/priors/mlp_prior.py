"""MLP prior: a diffusion prior p(CLIP image embedding | text embedding) without a transformer.

DALL·E 2's prior (arXiv 2204.06125, section 2.2) is a causal transformer over the caption that predicts x0 by mean
squared error. This one predicts x0 from the noised image embedding, the time and the text embedding alone, by a
residual MLP: small embeddings need no more, and it trains in minutes on a CPU. Both embeddings are standardised by the
mean and deviation of each dimension over a sample of the training data.

    B batch   T text length   E embedding   D width   F hidden width
"""

from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.continuous import straight_levels
from dalle_jax.diffusion.levels import NoiseLevel, initial_noise
from dalle_jax.diffusion.parameterization import ModelOutput, Parameterization
from dalle_jax.diffusion.samplers.flow_ode import Euler
from dalle_jax.diffusion.samplers.sampler import KeyedNoise
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.mlp import Mlp
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.models.priors.prior import (
    MeasuredStatistic,
    PriorOptions,
    StandardisedVectors,
    TextCondition,
    VectorSample,
    nearest,
    statistics_of,
)
from dalle_jax.parallel.axes import EMBED

FREQUENCIES = 2.0 ** np.linspace(0, 6, 32)
"""Radians of the time's sinusoids."""


@dataclass(frozen=True)
class MlpPriorConfig:
    """Sizes of the network: ``layers`` residual MLPs of ``width``, each with ``hidden`` units."""

    embed_width: int
    width: int
    hidden: int
    layers: int
    dtype: Literal["float32", "bfloat16"] = "float32"

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


class MlpPrior(StandardisedVectors):
    """The prior over unit vectors. Implements ``Prior``."""

    def __init__(self, config: MlpPriorConfig, *, rngs: nnx.Rngs):
        super().__init__(config.embed_width)
        self.config = config
        self.text_mean = MeasuredStatistic(jnp.zeros(config.embed_width), axes=(None,))
        self.text_std = MeasuredStatistic(jnp.ones(config.embed_width), axes=(None,))
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
        """Predict the standardised image embedding x0 from ``x = t x0 + (1 - t) noise``."""
        angles = time[:, None] * FREQUENCIES  # [B f]
        text = (text_vectors - self.text_mean[...]) / self.text_std[...]
        given = [x, text, jnp.cos(angles), jnp.sin(angles)]
        x = self.inputs(jnp.concatenate(given, axis=-1))
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))

    def measure(self, sample: VectorSample) -> None:
        """Store the statistics of the image and text vectors of a sample."""
        super().measure(sample)
        self.text_mean[...], self.text_std[...] = statistics_of(sample.text)

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Draw M vectors for each prompt: each is the nearest to the text's of ``options.draws``, without guidance."""
        del empty
        width, count = self.config.embed_width, keys.shape[1]
        split = jax.vmap(lambda key: jax.random.split(key, options.draws))(keys.reshape(-1)).reshape(-1)  # [P*M*n]
        rows = jnp.repeat(text.vector, count * options.draws, axis=0)

        def denoise(x: Array, level: NoiseLevel) -> ModelOutput:
            return ModelOutput(self(x, level.time, rows))

        levels = straight_levels(np.arange(options.steps + 1) / options.steps)
        start = initial_noise(split, (width,))
        found = Euler().sample(denoise, levels, start, KeyedNoise(split), Parameterization("x0"))
        several = self.denormalise(found).reshape(-1, options.draws, width)  # [P*M n E]
        return nearest(several, jnp.repeat(text.vector, count, axis=0)).reshape(*keys.shape, width)
