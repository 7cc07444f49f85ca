"""The diffusion prior of unCLIP: a causal transformer that predicts the image vector (arXiv 2204.06125, section 2.2).

The sequence is  text states (T), text vector, time, noised image vector, learned token;  the output at the learned
token is x0. Layout and arithmetic match the published Karlo. Letters are those of prior.py; D width.
"""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.levels import NoiseLevel, initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.parameterization import ClipX0, ModelOutput, Parameterization
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.ddpm import Ddpm
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, RecordedNoise, Sampler
from dalle_jax.diffusion.spacing import RoundedSteps
from dalle_jax.layers.linear import Linear
from dalle_jax.models.priors.prior import PriorOptions, TextCondition, causal_mask, nearest, repeat_rows
from dalle_jax.models.priors.transformer import PriorTransformer, PriorTransformerConfig
from dalle_jax.parallel.axes import EMBED, MLP

LARGEST_VALUE = 5.0
"""The bound of normalised x0 in each reverse step, as in the published scheduler."""
TIMESTEPS = 1000
SAMPLER = Ddpm("fixed_small")
AFTER_TEXT = 4
"""Positions after the text states: text vector, time, image vector, learned token."""


@dataclass(frozen=True)
class DiffusionPriorConfig(PriorTransformerConfig):
    """Sizes and options of the network, with the time and the noised image vector as tokens."""

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


class DiffusionPrior(PriorTransformer):
    """The diffusion prior p(image vector | text). Implements ``Prior``."""

    def __init__(self, config: DiffusionPriorConfig, *, rngs: nnx.Rngs):
        width, embed, dtype = config.width, config.embed_width, config.dtype
        if width % 2:
            raise ValueError(f"width: expected an even number, got {width}")
        super().__init__(config, AFTER_TEXT, rngs=rngs)
        self.image_in = Linear(embed, width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.time_up = Linear(width, width, axes=(EMBED, MLP), dtype=dtype, rngs=rngs)
        self.time_down = Linear(width, width, axes=(MLP, EMBED), dtype=dtype, rngs=rngs)

    def __call__(self, x: Float[Array, "B E"], time: Float[Array, " B"], text: TextCondition) -> Float[Array, "B E"]:
        """Predict the normalised image vector x0 from its noised form at a timestep 0 .. 999."""
        return self.predict(self.embed(x, time, text), causal_mask(text.mask, AFTER_TEXT))

    def embed(self, x: Float[Array, "B E"], time: Float[Array, " B"], text: TextCondition) -> Float[Array, "B L D"]:
        """Embed the sequence, with its positions."""
        clock = self.time_down(jax.nn.silu(self.time_up(time_features(time, self.config.width))))
        return self.sequence(text, [clock, self.image_in(x)])

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
