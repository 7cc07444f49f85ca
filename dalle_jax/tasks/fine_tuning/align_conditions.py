"""Fine-tuning of a text-to-image transformer by condition contrastive alignment, to sample it without guidance."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.losses.condition_contrastive import condition_contrastive
from dalle_jax.losses.contrastive import same_caption_group
from dalle_jax.models.code_generator import CachedGenerator
from dalle_jax.models.dalle import Dalle
from dalle_jax.models.dalle_bart import DalleBart
from dalle_jax.parallel.layout import Layout
from dalle_jax.tasks.fine_tuning.fine_tuned_generation import (
    REFERENCE,
    FineTunedGeneration,
    abstract_reference,
    load_reference,
)
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, Seed


@dataclass(frozen=True)
class AlignConditions:
    """Settings of condition contrastive alignment (CCA, arXiv 2410.09347), which needs ``trainer.initial``.

    - ``generate``: the settings with which the transformer was trained. ``blank_captions`` is the share of images
      whose captions are replaced by the empty one. ``text_weight`` is not used: the loss is of codes alone.
    - ``reference``: the folder of the trained transformer, which stays frozen; usually that of ``trainer.initial``.
    - ``beta``: the scale of log-likelihood ratios of whole images (0.02 in the paper).
    - ``negative_weight``: the weight of mismatched captions, lambda (50 to 1000 in the paper).
    """

    generate: GenerateCodes
    reference: str
    beta: float = 0.02
    negative_weight: float = 100.0

    def __post_init__(self) -> None:
        for name in ("beta", "negative_weight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: expected more than 0, got {getattr(self, name)}")

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch."""
        group = {"caption_group": jax.ShapeDtypeStruct((batch_size,), jnp.int32)}
        return self.generate.batch_spec(batch_size) | group

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "ConditionAlignment":
        """Load the tokenizers and the frozen transformer, and check that they fit the model and the data."""
        generate = self.generate.open(layout, manifest)
        reference = load_reference(self.reference, self.generate.model, layout)
        return ConditionAlignment(generate, reference, replace(self, generate=generate.config))

    def open_for_plan(self) -> "ConditionAlignment":
        """Open the task for ``plan``: load the tokenizers if their files exist; the frozen transformer is abstract."""
        return ConditionAlignment(self.generate.open_for_plan(), abstract_reference(self.generate.model), self)


@dataclass(frozen=True, eq=False)
class ConditionAlignment(FineTunedGeneration):
    """The task that fine-tunes a transformer to be sampled without guidance."""

    config: AlignConditions

    @property
    def recommended_guidance(self) -> float:
        """The scale 1."""
        return 1.0

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return the arrays of ``CodeGeneration.prepare``, and ``caption_group`` int32 [B] (data/loader.py)."""
        group = {"caption_group": np.array(examples["caption_group"], np.int32)}
        return self.generate.prepare(examples, seeds) | group

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of ``prepare``."""
        return self.config.batch_spec(batch_size)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective: the contrastive loss of captions."""
        return (Objective("align", nnx.Param, self.loss),)

    def loss(
        self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the loss of a batch; each image's mismatched caption is that of the next row of the (micro)batch."""
        del step
        blank_key, dropout_key = jax.random.split(key)
        text, group = batch["text"], batch["caption_group"]
        rows = text.shape[0]
        if rows < 2:
            raise ValueError(f"batch: expected at least 2 rows, whose captions are exchanged, got {rows}")
        blank = jax.random.bernoulli(blank_key, self.config.generate.blank_captions, (rows,))
        following = jnp.roll(jnp.arange(rows), -1)
        same = same_caption_group(text, group)[jnp.arange(rows), following]  # [B]
        texts = jnp.concatenate([text, text[following]])  # [2*B T]
        texts = jnp.where(jnp.tile(blank, 2)[:, None], module.empty(texts), texts)
        codes = jnp.tile(self.generate.codes_of(frozen, batch), (2, 1))  # [2*B I]
        parts = self.generate.config.loss_parts
        trained = -module.nats(texts, codes, dropout_key=dropout_key, parts=parts).image.sum(axis=-1)  # [2*B]
        reference = cast(CachedGenerator, frozen[REFERENCE])
        fixed = -jax.lax.stop_gradient(reference.nats(texts, codes, parts=parts).image.sum(axis=-1))
        matched, mismatched = jnp.split(trained - fixed, 2)  # [B] each
        negative = ~(blank | same)
        config = self.config
        loss = condition_contrastive(
            matched, mismatched, negative, beta=config.beta, negative_weight=config.negative_weight
        )
        one, negatives = jnp.ones(()), jnp.sum(negative, dtype=jnp.float32)

        def over_negatives(values: Array) -> tuple[Array, Array]:
            return jnp.sum(jnp.where(negative, values, 0.0)), negatives

        return loss, {
            "loss": (loss, one),
            "matched_gain": over_negatives(matched),
            "mismatched_gain": over_negatives(mismatched),
            "prefers_match": over_negatives(matched > mismatched),
        }
