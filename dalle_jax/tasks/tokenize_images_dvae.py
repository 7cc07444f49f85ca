"""Training DALL·E 1's dVAE: the evidence lower bound through relaxed codes, with every schedule of the paper."""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.logit_laplace import map_pixels, negative_log_likelihood
from dalle_jax.losses.quantization import perplexity, usage
from dalle_jax.losses.variational import gumbel_softmax, kl_from_uniform, marginal_kl_from_uniform
from dalle_jax.models.dvae import Dvae, DvaeConfig, expected_pixels
from dalle_jax.tasks.reconstruct_images import ReconstructImages, check_size
from dalle_jax.train.task import Batch, MetricSums, Objective, WholeBatchOnly


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``start`` at step 0 to ``end`` at step ``steps``, and ``end`` from there on."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")

    def value(self, step: Array) -> Float[Array, ""]:
        """The value at a step, in float32."""
        done = jnp.minimum(step.astype(jnp.float32) / self.steps, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1.0 + jnp.cos(math.pi * done))


@dataclass(frozen=True)
class TokenizeImagesDvae(ReconstructImages):
    """The evidence lower bound of a dVAE (Ramesh et al. 2021, arXiv 2102.12092, section 2.1 and appendix A.2).

    ``loss = nll + kl_weight / (C f^2) kl``: ``nll`` is the mean over pixels and channels of the logit-Laplace -ln f,
    ``kl`` the mean over codes of KL(softmax(logits) || uniform), both in nats, and C f^2 the values that a code stands
    for (192 as published), so that the weight is that of a sum over the whole image. ``elb`` is its negative with
    kl_weight 1, the bound itself. The defaults of the schedules are the paper's.

    Two choices are ours, for short runs, and off by default. ``log_scale_floor`` bends ln b to stay above it: drawn
    images have areas without any noise, whose likelihood grows without end and outweighs all else.
    ``marginal_weight`` adds that much of KL(mean over the batch of softmax(logits) || uniform), in nats: codes that
    nothing uses come back. Beside it a ``kl_weight`` that ends below 0 pays each position for being certain.
    """

    model: DvaeConfig
    image_size: int
    temperature: Cosine = field(default_factory=lambda: Cosine(1.0, 1 / 16, 150_000))
    kl_weight: Cosine = field(default_factory=lambda: Cosine(0.0, 6.6, 5000))
    log_scale_floor: float | None = None
    marginal_weight: float = 0.0

    def __post_init__(self) -> None:
        check_size(self.image_size, self.model.downsample)
        if min(self.temperature.start, self.temperature.end) <= 0:
            raise ValueError(
                f"temperature: expected more than 0 all along, got {self.temperature.start} to {self.temperature.end}"
            )

    def init(self, rngs: nnx.Rngs) -> Dvae:
        """A new tokenizer."""
        return self.model.build(rngs)

    def objectives(self) -> tuple[Objective, ...]:
        """One: the bound. Its terms are means over images, but for the divergence of the batch's mean."""
        whole = WholeBatchOnly(
            f"task.marginal_weight = {self.marginal_weight} weighs a divergence of the mean over the batch, which is "
            "no mean over its microbatches"
        )
        return (Objective("bound", nnx.Param, self.loss, microbatches=whole if self.marginal_weight else None),)

    def loss(
        self, module: Dvae, frozen: None, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The training loss, with one relaxed sample for each code."""
        del frozen
        pixels = to_float(batch["pixels"])
        temperature, weight = self.temperature.value(step), self.kl_weight.value(step)
        logits = module.logits(pixels)  # [B h w K]
        drawn = module.decoder.soft(gumbel_softmax(logits, temperature, key))
        log_scale = drawn.log_scale
        if self.log_scale_floor is not None:
            log_scale = self.log_scale_floor + jax.nn.softplus(log_scale - self.log_scale_floor)
        nll = negative_log_likelihood(map_pixels(pixels), drawn.mean, log_scale).mean()
        kl, marginal = kl_from_uniform(logits).mean(), marginal_kl_from_uniform(logits)
        values = self.model.channels * self.model.downsample**2
        loss = nll + weight / values * kl + self.marginal_weight * marginal
        codes = logits.argmax(axis=-1).reshape(-1)
        histogram = jnp.zeros(module.codebook_size).at[codes].add(1.0)
        figures = {
            "loss": loss,
            "nll": nll,
            "kl": kl,
            "marginal_kl": marginal,
            "elb": -(nll + kl / values),
            "mse": jnp.square(pixels - expected_pixels(drawn)).mean(),
            "temperature": temperature,
            "kl_weight": weight,
            "codebook/perplexity": perplexity(histogram),
            "codebook/usage": usage(histogram),
        }
        return loss, {name: (jax.lax.stop_gradient(value), jnp.ones(())) for name, value in figures.items()}
