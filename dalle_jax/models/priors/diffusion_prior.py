"""The diffusion prior of unCLIP: a causal transformer that predicts the image vector (arXiv 2204.06125, section 2.2).

The sequence is  text states (T), text vector, time, noised image vector, learned token;  the output at the learned
token is x0. Layout and arithmetic match the published Karlo. Letters are those of prior.py; D width.
"""

import math
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Key
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.levels import NoiseLevel, initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, ModelOutput, Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, RecordedNoise, Sampler
from dalle_jax.diffusion.spacing import RoundedSteps
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
    nearest,
    repeat_rows,
)
from dalle_jax.parallel.axes import EMBED, MLP, POSITIONS

LARGEST_VALUE = 5.0
"""The bound of normalised x0 in each reverse step, as in the published scheduler."""
TIMESTEPS = 1000
SAMPLER = Ddpm("fixed_small")
AFTER_TEXT = 4
"""Positions after the text states: text vector, time, image vector, learned token."""


@dataclass(frozen=True)
class DiffusionPriorConfig:
    """Sizes and options of the network.

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

    def build(self, rngs: nnx.Rngs) -> "DiffusionPrior":
        """Create the network with newly initialised weights."""
        return DiffusionPrior(self, rngs=rngs)


def time_features(time: Float[Array, " B"], width: int) -> Float[Array, "B D"]:
    """Compute cosines, then sines, of the time at ``width`` / 2 frequencies from 1 down to nearly 1 / 10,000."""
    half = width // 2
    angles = time[:, None] * jnp.exp(-math.log(10_000) / half * jnp.arange(half))
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def process() -> DiscreteProcess:
    """Return the process of training: cosine noise in 1000 timesteps (arXiv 2204.06125, table 3)."""
    return DiscreteProcess.of(CosineNoise(TIMESTEPS))


class DiffusionPrior(nnx.Module):
    """The diffusion prior p(image vector | text). Implements ``Prior``."""

    def __init__(self, config: DiffusionPriorConfig, *, rngs: nnx.Rngs):
        self.config = config
        width, embed, dtype = config.width, config.embed_width, config.dtype
        if width % 2:
            raise ValueError(f"width: expected an even number, got {width}")
        self.text_in = Linear(config.text_width, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.vector_in = Linear(embed, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.image_in = Linear(embed, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.time_up = Linear(width, width, axes=(EMBED, MLP), dtype=dtype, rngs=rngs)
        self.time_down = Linear(width, width, axes=(MLP, EMBED), dtype=dtype, rngs=rngs)
        init = nnx.initializers.normal(0.02)
        self.query = EmbeddingParam(init(rngs.params(), (width,), jnp.float32), axes=(EMBED,))
        length = config.text_length + AFTER_TEXT
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

    def __call__(self, x: Float[Array, "B E"], time: Float[Array, " B"], text: TextCondition) -> Float[Array, "B E"]:
        """Predict the normalised image vector x0 from its noised form at a timestep 0 .. 999."""
        return self.predict(self.embed(x, time, text), causal_mask(text.mask, AFTER_TEXT))

    def embed(self, x: Float[Array, "B E"], time: Float[Array, " B"], text: TextCondition) -> Float[Array, "B L D"]:
        """Embed the sequence, with its positions."""
        rows, dtype = x.shape[0], jnp.dtype(self.config.dtype)
        vector = text.vector * (self.config.embed_width**0.5 if self.unit_vectors else 1.0)
        clock = self.time_down(jax.nn.silu(self.time_up(time_features(time, self.config.width))))
        single = [self.vector_in(vector), clock, self.image_in(x), broadcast_param(self.query[...], rows, dtype)]
        tokens = jnp.concatenate([self.text_in(text.states), jnp.stack(single, axis=1)], axis=1)  # [B L D]
        return tokens + self.positions.all(rows)

    def predict(self, tokens: Float[Array, "B L D"], mask: Bool[Array, "B 1 L L"] | None) -> Float[Array, "B E"]:
        """Predict x0 from the embedded sequence; without a mask every position attends to all."""
        return self.head(self.norm(run_stack(self.stack, tokens, mask)[:, -1]))

    def sample(
        self,
        text: TextCondition,
        empty: TextCondition,
        start: Float[Array, "R E"],
        noise: KeyedNoise | RecordedNoise,
        guidance: float,
        steps: int,
        sampler: Sampler = SAMPLER,
    ) -> Float[Array, "R E"]:
        """Run the reverse process from given noise and return image vectors, one for each row of ``text``."""
        row = TextCondition(*(jnp.broadcast_to(leaf[:1], other.shape) for leaf, other in zip(empty, text, strict=True)))

        def denoise(x: Array, level: NoiseLevel, condition: TextCondition) -> ModelOutput:
            return ModelOutput(self(x, level.time, condition))

        guided = classifier_free(denoise, text, row, Guidance(guidance))
        levels = process().respaced(RoundedSteps(steps)).levels
        parameterization = Parameterization("x0", ClipX0(LARGEST_VALUE))
        return self.denormalise(sampler.sample(guided, levels, start, noise, parameterization))

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Draw M vectors for each prompt: each is the nearest to the text's of ``options.draws``."""
        split = jax.vmap(lambda key: jax.random.split(key, options.draws))(keys.reshape(-1)).reshape(-1)  # [P*M*n]
        many = repeat_rows(text, keys.shape[1] * options.draws)
        start = initial_noise(split, (self.config.embed_width,))
        found = self.sample(many, empty, start, KeyedNoise(split), options.guidance, options.steps)
        vectors = found.reshape(-1, options.draws, found.shape[-1])  # [P*M n E]
        best = nearest(vectors, repeat_rows(text, keys.shape[1]).vector)
        return best.reshape(*keys.shape, -1)
