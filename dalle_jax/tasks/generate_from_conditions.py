"""Training of a transformer on precomputed codes, conditioned on classes or on the features of a text encoder."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.models.llamagen import LlamaGen, LlamaGenConfig
from dalle_jax.models.prompt_kinds import ByClass
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs
from dalle_jax.pipelines.prompts import class_rows, feature_rows
from dalle_jax.tasks.batches import check_loss_parts, code_rows, summed, text_spec, with_random_codes
from dalle_jax.tasks.precomputed_codes import load_codes_tokenizer
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, Seed


@dataclass(frozen=True)
class GenerateFromConditions:
    """Settings of p(codes | condition). The data holds ``codes`` and ``condition``: a class, or features [t c].

    Features with fewer positions than the model has are padded on the left; features with more are truncated.
    ``blanks`` is the share of conditions that training replaces by the empty condition, for guidance (LlamaGen has
    0.1). ``image_tokenizer`` is the folder of the image tokenizer that computed the codes, and that will decode the
    codes which the model generates. The default is the folder that ``encode`` recorded with the codes. ``random_codes``
    and ``loss_parts`` are as in ``GenerateCodes``.
    """

    model: LlamaGenConfig
    blanks: float = 0.1
    random_codes: float = 0.0
    image_tokenizer: str | None = None
    loss_parts: int = 1

    def __post_init__(self) -> None:
        check_loss_parts(self.loss_parts, codes=math.prod(self.model.grid))
        for name in ("blanks", "random_codes"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name}: expected a share in [0, 1), got {getattr(self, name)}")
        if self.model.code_width:
            raise ValueError(
                f"model.code_width: expected 0, because precomputed codes come without code vectors, "
                f"got {self.model.code_width}"
            )

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        codes = text_spec(batch_size, math.prod(self.model.grid))
        return {"codes": codes, "condition": self.model.prompt_kind.spec(batch_size)}

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "ConditionalCodeGeneration":
        """Check that the codes fit the model and that ``image_tokenizer``, if it is set, computed them."""
        del layout
        if manifest is None:
            return self.open_for_plan()
        found = load_codes_tokenizer(self.model, self.image_tokenizer, manifest)
        return ConditionalCodeGeneration(replace(self, image_tokenizer=found.folder))

    def open_for_plan(self) -> "ConditionalCodeGeneration":
        """Return the task, which reads no files."""
        return ConditionalCodeGeneration(self)


@dataclass(frozen=True, eq=False)
class ConditionalCodeGeneration:
    """The task that trains a LlamaGen transformer on precomputed codes and their conditions."""

    config: GenerateFromConditions

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return ``codes`` int32 [B I], and ``condition`` int32 [B] or float32 [B T c]."""
        del seeds
        if "condition" not in examples:
            raise UserError(
                "data: expected a condition for the codes of every image (set data.source.conditions), got examples "
                f"with {', '.join(sorted(examples))}"
            )
        kind, given = self.config.model.condition, examples["condition"]
        where = "data: condition"
        rows = class_rows(given, kind, where) if isinstance(kind, ByClass) else feature_rows(given, kind, where)
        return {
            "codes": code_rows(examples, self.config.model.grid, self.config.model.codebook_size),
            "condition": rows,
        }

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def init(self, rngs: nnx.Rngs) -> LlamaGen:
        """Create the transformer."""
        return self.config.model.build(rngs)

    def frozen(self) -> Frozen:
        """Return an empty mapping: the codes are precomputed, so the loss needs no frozen network."""
        return {}

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective: the mean negative log-likelihood of a code."""
        return (Objective("predict", nnx.Param, self.loss),)

    def loss(
        self, module: LlamaGen, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the mean negative log-likelihood of a code in nats. Some conditions are replaced by the empty one."""
        del frozen, step
        blank_key, dropout_key = jax.random.split(key)
        condition = batch["condition"]
        blank = jax.random.bernoulli(blank_key, self.config.blanks, (condition.shape[0], *(1,) * (condition.ndim - 1)))
        condition = jnp.where(blank, module.empty(condition), condition)
        codes = batch["codes"]
        share, size, parts = self.config.random_codes, self.config.model.codebook_size, self.config.loss_parts
        shown = with_random_codes(codes, share, size, jax.random.fold_in(key, 1))
        nats = module.nats(condition, codes, shown=shown, dropout_key=dropout_key, parts=parts).image
        loss = nats.mean()
        return loss, _sums(nats, batch) | {"loss": (loss, jnp.ones(()))}

    def evaluate(self, module: LlamaGen, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the negative log-likelihood of held-out codes, in nats per code."""
        del frozen, key
        return _sums(module.nats(batch["condition"], batch["codes"], parts=self.config.loss_parts).image, batch)

    def images(self, module: LlamaGen, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> None:
        """Return None: the task loads no image tokenizer to decode codes."""
        del module, frozen, batch, key

    def model_files(self) -> dict[str, bytes]:
        """Return ``model.gin``, which also names the image tokenizer of the codes."""
        needs = absolute_needs(image_tokenizer=self.config.image_tokenizer)
        return {"model.gin": render(ModelFile(model=self.config.model, needs=needs)).encode()}


def _sums(nats: Float[Array, "B I"], batch: Batch) -> MetricSums:
    return {"image_nll": summed(nats, batch)}
