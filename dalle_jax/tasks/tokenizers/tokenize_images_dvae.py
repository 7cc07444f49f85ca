"""Training of DALL·E 1's dVAE: the evidence lower bound with relaxed codes, and the schedules of the paper."""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.images.pixels import to_float
from dalle_jax.losses.logit_laplace import map_pixels, negative_log_likelihood
from dalle_jax.losses.variational import gumbel_softmax, kl_from_uniform, marginal_kl_from_uniform
from dalle_jax.models.dvae import Dvae, DvaeConfig, expected_pixels
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.parallel.layout import Layout
from dalle_jax.tasks.batches import pixel_spec
from dalle_jax.tasks.precomputed_codes import refuse_precomputed
from dalle_jax.tasks.tokenizers.reconstruct_images import ImageReconstruction, check_size
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, WholeBatchOnly


@dataclass(frozen=True)
class Cosine:
    """A cosine schedule: ``start`` at step 0, ``end`` at step ``steps`` and after it."""

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"steps: expected at least 1, got {self.steps}")

    def value(self, step: Array) -> Float[Array, ""]:
        """Return the value at a step, in float32."""
        done = jnp.minimum(step.astype(jnp.float32) / self.steps, 1.0)
        return self.end + (self.start - self.end) * 0.5 * (1.0 + jnp.cos(math.pi * done))


@dataclass(frozen=True)
class TokenizeImagesDvae:
    """Settings of a dVAE's training (Ramesh et al. 2021, arXiv 2102.12092, section 2.1 and appendix A.2).

    ``loss = nll + kl_weight / (C f^2) kl + marginal_weight marginal_kl``, all in nats:

    - ``nll`` is the negative log-likelihood of the logit-Laplace density, averaged over pixels and channels.
    - ``kl`` is KL(softmax(logits) || uniform), averaged over codes.
    - C f^2 is the number of values that one code stands for (192 as published). The paper's weight is for sums over the
      whole image. ``nll`` and ``kl`` are means, so ``kl`` is divided by C f^2.
    - ``marginal_kl`` is KL(mean over the batch of softmax(logits) || uniform).

    The metric ``elb`` is the bound itself: the negative loss with ``kl_weight`` 1. The schedules default to the paper.

    Two settings, for short runs, are our own and off by default. ``log_scale_floor`` is a soft lower bound of ln b:
    rendered images have flat areas, whose likelihood would otherwise grow without limit. ``marginal_weight`` brings
    unused codes back. A ``kl_weight`` below 0 then rewards each position for certainty.
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
                f"temperature: expected start and end above 0, got {self.temperature.start} to {self.temperature.end}"
            )

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return {"pixels": pixel_spec(batch_size, self.image_size)}

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "DvaeReconstruction":
        """Return the task. Raise ``UserError`` for data of precomputed codes."""
        del layout
        refuse_precomputed(self, manifest, "train it from images")
        return self.open_for_plan()

    def open_for_plan(self) -> "DvaeReconstruction":
        """Return the task, which reads no files."""
        return DvaeReconstruction(self)


class DvaeReconstruction(ImageReconstruction[TokenizeImagesDvae, Dvae]):
    """The task that trains a dVAE: reconstruction of images through relaxed codes."""

    def tokenizer_of(self, module: Dvae) -> ImageTokenizer:
        """Return the trained module itself."""
        return module

    def init(self, rngs: nnx.Rngs) -> Dvae:
        """Create the image tokenizer."""
        return self.config.model.build(rngs)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective.

        If ``marginal_kl`` is used, it needs the whole batch, as it is not a mean over images.
        """
        whole = WholeBatchOnly(
            f"task.marginal_weight = {self.config.marginal_weight} weights a divergence that is "
            "computed from the mean over the whole batch"
        )
        return (Objective("bound", nnx.Param, self.loss, microbatches=whole if self.config.marginal_weight else None),)

    def loss(
        self, module: Dvae, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the training loss, with one relaxed sample for each code."""
        del frozen
        pixels = to_float(batch["pixels"])
        temperature, weight = self.config.temperature.value(step), self.config.kl_weight.value(step)
        logits = module.logits(pixels)  # [B h w K]
        drawn = module.decoder.soft(gumbel_softmax(logits, temperature, key))
        log_scale = drawn.log_scale
        if self.config.log_scale_floor is not None:
            log_scale = self.config.log_scale_floor + jax.nn.softplus(log_scale - self.config.log_scale_floor)
        nll = negative_log_likelihood(map_pixels(pixels), drawn.mean, log_scale).mean()
        kl, marginal = kl_from_uniform(logits).mean(), marginal_kl_from_uniform(logits)
        values = self.config.model.channels * self.config.model.downsample**2
        loss = nll + weight / values * kl + self.config.marginal_weight * marginal
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
            "codebook": histogram,
        }
        return loss, {name: (jax.lax.stop_gradient(value), jnp.ones(())) for name, value in figures.items()}
