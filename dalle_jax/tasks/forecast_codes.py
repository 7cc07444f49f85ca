"""Training of the forecasting heads of a trained transformer, which stays frozen, for parallel decoding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.differences import differences
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.code_generator import CachedGenerator, prepare_for_sampling
from dalle_jax.models.heads.forecast_heads import ForecastHeads, ForecastHeadsConfig
from dalle_jax.models.model_configs import CodeGeneratorConfig
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.model_fingerprints import fingerprint_of_model
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs, load_generator, read_model_file
from dalle_jax.sampling.autoregressive import guide
from dalle_jax.tasks.batches import summed
from dalle_jax.tasks.generate_codes import CodeGeneration, GenerateCodes
from dalle_jax.tasks.generate_from_conditions import ConditionalCodeGeneration, GenerateFromConditions
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, ReadsCaptions, Seed

TRANSFORMER = "transformer"
ONLY_IN_TRAINING = ("scan", "remat", "backend", "dropout")
"""The fields of a transformer's config that change neither its outputs nor the shapes of its parameters in sampling."""


@dataclass(frozen=True)
class ForecastCodes:
    """Settings of forecasting heads (models/heads/forecast_heads.py), which are trained after their transformer.

    The frozen transformer reads the codes of an image and draws each code again with Gumbel noise. Head t learns to
    guess the code that is drawn t places later, with the same noise (Wiggers and Hoogeboom 2020, arXiv 2002.09928).

    - ``generate``: the settings with which the transformer was trained; the model and the data are read from it.
    - ``transformer``: the folder of the trained transformer.
    - ``heads``: the number of codes that are guessed, T.
    - ``guidance``: the guidance scale of the drawn codes; best that of later sampling. 1 needs half the computation.
    """

    generate: GenerateCodes | GenerateFromConditions
    transformer: str
    heads: int = 2
    guidance: float = 1.0

    def __post_init__(self) -> None:
        height, width = self.generate.model.grid
        if not 1 <= self.heads < height * width:
            raise ValueError(f"heads: expected 1 to {height * width - 1}, less than the codes, got {self.heads}")
        if self.guidance < 0:
            raise ValueError(f"guidance: expected 0 or more (1 is off), got {self.guidance}")

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        return self.generate.batch_spec(batch_size)

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "CodeForecasting":
        """Load the tokenizers and the frozen transformer, and check that it is the one of ``generate``."""
        generate = self.generate.open(layout, manifest)
        transformer = load_transformer(self.transformer, self.generate.model, layout)
        fingerprint = fingerprint_of_model(storage.place(self.transformer))
        return CodeForecasting(replace(self, generate=generate.config), generate, transformer, fingerprint)

    def open_for_plan(self) -> "CodeForecasting":
        """Open the task for ``plan``: load the tokenizers if their files exist; the transformer is abstract."""

        def build() -> CachedGenerator:
            module = self.generate.model.build(nnx.Rngs(0))
            prepare_for_sampling(module)
            return module

        return CodeForecasting(self, self.generate.open_for_plan(), nnx.eval_shape(build), "")


def load_transformer(folder: str, model: CodeGeneratorConfig, layout: Layout) -> CachedGenerator:
    """Load a frozen transformer. Raise ``UserError`` if its config is not ``model``."""
    place = storage.place(folder)
    if wrong := list(differences("task.generate.model", read_model_file(place).model, model, free=ONLY_IN_TRAINING)):
        raise UserError(f"task.generate.model: expected that of task.transformer {folder} ({'; '.join(wrong)})")
    return cast(CachedGenerator, load_generator(place, layout))


@dataclass(frozen=True, eq=False)
class CodeForecasting:
    """The task that trains forecasting heads. ``transformer`` is frozen and prepared for sampling."""

    config: ForecastCodes
    generate: CodeGeneration | ConditionalCodeGeneration
    transformer: CachedGenerator
    fingerprint: str

    @property
    def heads_config(self) -> ForecastHeadsConfig:
        """The config of the heads."""
        model = self.config.generate.model
        return ForecastHeadsConfig(model.codebook_size, model.width, self.config.heads, self.fingerprint, model.dtype)

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return the arrays with which the transformer was trained."""
        return self.generate.prepare(examples, seeds)

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> ForecastHeads:
        """Create the heads."""
        return self.heads_config.build(rngs)

    def frozen(self) -> Frozen:
        """Return the transformer, and the image tokenizer if there is one."""
        return {**self.generate.frozen(), TRANSFORMER: self.transformer}

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective: the cross-entropy of drawn codes."""
        return (Objective("forecast", nnx.Param, self.loss),)

    def loss(
        self, module: ForecastHeads, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the mean cross-entropy of the heads' guesses."""
        del step
        nats, sums = self._forecasts(module, frozen, batch, key)
        loss = jnp.stack([one.mean() for one in nats]).mean()
        return loss, sums | {"loss": (loss, jnp.ones(()))}

    def evaluate(self, module: ForecastHeads, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the metrics of training on held-out examples."""
        return self._forecasts(module, frozen, batch, key)[1]

    def _forecasts(
        self, module: ForecastHeads, frozen: Frozen, batch: Batch, key: Key[Array, ""]
    ) -> tuple[list[Float[Array, "B i"]], MetricSums]:
        """Return the cross-entropy of each head's guesses, and metrics.

        ``right_t`` is the share of right guesses of head t. ``copied_t`` is that of guesses that repeat code i, as in
        sampling without heads.
        """
        transformer = cast(CachedGenerator, frozen[TRANSFORMER])
        generate = self.generate
        codes = generate.codes_of(frozen, batch) if isinstance(generate, CodeGeneration) else batch["codes"]
        outputs, logits = self._teach(transformer, batch, codes)
        outputs, logits, embedded = jax.lax.stop_gradient((outputs, logits, transformer.codes.embed(codes)))
        noise = jax.random.gumbel(key, logits.shape)
        drawn = jnp.argmax(logits + noise, axis=-1)  # [B I]
        logits_of_heads, weights = module.logits(outputs, embedded), module.noise[...]  # [B I T K] [T]
        nats, sums = [], MetricSums()
        for head in range(self.config.heads):
            ahead = head + 1
            scores = logits_of_heads[:, :-ahead, head] + weights[head] * noise[:, ahead:]  # [B I-t K]
            target = drawn[:, ahead:]
            nats.append(cross_entropy(scores, target))
            right, copied = scores.argmax(axis=-1) == target, codes[:, :-ahead] == target
            sums[f"right_{ahead}"] = summed(right.astype(jnp.float32), batch)
            sums[f"copied_{ahead}"] = summed(copied.astype(jnp.float32), batch)
        return nats, sums

    def _teach(self, transformer: CachedGenerator, batch: Batch, codes: Array) -> tuple[Array, Array]:
        """Return the transformer's outputs [B I D] and its guided logits [B I K] for the codes of images."""
        prompts, scale = batch["text" if "text" in batch else "condition"], self.config.guidance
        if scale == 1.0:
            outputs = transformer.outputs(prompts, codes).image
            return outputs, transformer.code_logits(outputs)
        empty = jnp.broadcast_to(transformer.empty(prompts), prompts.shape)
        both = transformer.outputs(jnp.concatenate([prompts, empty]), jnp.tile(codes, (2, 1))).image
        conditional, unconditional = jnp.split(transformer.code_logits(both), 2)
        logits = guide(conditional, unconditional, jnp.full((len(codes), 1), scale))
        return both[: len(codes)], logits

    def images(self, module: ForecastHeads, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> None:
        """Return None: guesses change no image."""
        del module, frozen, batch, key

    def cut_captions(self) -> tuple[int, int, str]:
        """Return the counts of truncated and of all captions, and a text that names the limit."""
        return self.generate.cut_captions() if isinstance(self.generate, ReadsCaptions) else (0, 0, "")

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``, which names the transformer."""
        needs = absolute_needs(transformer=self.config.transformer)
        return {"model.gin": render(ModelFile(model=self.heads_config, needs=needs)).encode()}
