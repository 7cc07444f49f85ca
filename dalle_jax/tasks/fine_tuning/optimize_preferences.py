"""Fine-tuning of a text-to-image transformer on pairs of images, of which one is preferred (DPO, arXiv 2305.18290)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.losses.cross_entropy import cross_entropy_in_parts
from dalle_jax.losses.policy_gradient import PolicyTerms, policy_terms_in_parts
from dalle_jax.losses.preferences import preference_loss
from dalle_jax.models.code_generator import CachedGenerator
from dalle_jax.models.dalle import Dalle
from dalle_jax.models.dalle_bart import DalleBart
from dalle_jax.parallel.layout import Layout
from dalle_jax.tasks.batches import pixel_rows, pixel_spec, summed
from dalle_jax.tasks.fine_tuning.fine_tuned_generation import (
    REFERENCE,
    FineTunedGeneration,
    abstract_reference,
    load_reference,
)
from dalle_jax.tasks.generate_codes import GenerateCodes
from dalle_jax.train.task import Batch, Frozen, MetricSums, Objective, Seed

REJECTED = "rejected"
"""The array of a batch that has the rejected images; ``pixels`` are the preferred ones."""


@dataclass(frozen=True)
class OptimizePreferences:
    """Settings of direct preference optimisation (DPO, arXiv 2305.18290), which needs ``trainer.initial``.

    The data has pairs of images: ``data.source = @RankedCandidates``. ``data.evaluation`` may have pairs too, or
    captioned images whose nats are measured.

    - ``generate``: the settings with which the transformer was trained, with the size of the images. Its ``guidance``
      becomes the recommended one; ``blank_captions``, ``text_weight`` and ``z_loss`` are not used.
    - ``reference``: the folder of the trained transformer, which stays frozen; usually that of ``trainer.initial``.
    - ``beta``: the scale of log-likelihood ratios of whole images. A larger one keeps the model nearer to its start.
    - ``preferred_weight``: the weight of the nll per code of preferred images in the loss. DPO alone may lower the
      likelihood of both images of a pair (Pang et al. 2024, arXiv 2404.19733, section 2).
    """

    generate: GenerateCodes
    reference: str
    beta: float = 0.1
    preferred_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.beta <= 0 or self.preferred_weight < 0:
            raise ValueError(
                f"beta, preferred_weight: expected more than 0 and 0 or more, got {self.beta} and "
                f"{self.preferred_weight}"
            )

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch of pairs."""
        found = self.generate.batch_spec(batch_size)
        size = self.generate.image_size
        return found if size is None else found | {REJECTED: pixel_spec(batch_size, size)}

    def open(self, layout: Layout, manifest: AnyManifest | None = None) -> "PreferenceOptimization":
        """Load the tokenizers and the frozen transformer, and check that they fit the model."""
        generate = self.generate.open(layout, manifest)
        if self.generate.image_size is None:
            raise UserError("task.generate.image_size: expected the size of the images of the pairs, got None")
        reference = load_reference(self.reference, self.generate.model, layout)
        return PreferenceOptimization(generate, reference, self)

    def open_for_plan(self) -> "PreferenceOptimization":
        """Open the task for ``plan``: load the tokenizers if their files exist; the frozen transformer is abstract."""
        return PreferenceOptimization(self.generate.open_for_plan(), abstract_reference(self.generate.model), self)


class PairTerms(NamedTuple):
    """The terms of both images of each pair.

    ``preferred`` and ``rejected`` are the changes of an image's log-likelihood since the start, in nats. The terms of
    ``policy`` are those of the preferred images, then of the rejected ones.
    """

    preferred: Float[Array, " B"]
    rejected: Float[Array, " B"]
    policy: PolicyTerms


@dataclass(frozen=True, eq=False)
class PreferenceOptimization(FineTunedGeneration):
    """The task that trains a transformer to prefer one image of a pair to the other."""

    config: OptimizePreferences

    @property
    def recommended_guidance(self) -> float:
        """The scale of the config."""
        return self.generate.config.guidance

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """Return the arrays of ``CodeGeneration.prepare``, and of pairs ``rejected`` uint8 [B H W 3].

        Raise ``UserError`` for training examples that are no pairs.
        """
        found = self.generate.prepare(examples, seeds)
        if REJECTED in examples:
            assert self.config.generate.image_size is not None
            return found | {REJECTED: pixel_rows(examples["rejected"], self.config.generate.image_size)}
        if seeds is not None:
            raise UserError("data.source: expected pairs of images, from @RankedCandidates, got captioned images")
        return found

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shape and dtype of each array of a batch of pairs."""
        return self.config.batch_spec(batch_size)

    def objectives(self) -> tuple[Objective, ...]:
        """Return the only objective: the loss of pairs."""
        return (Objective("prefer", nnx.Param, self.loss),)

    def loss(
        self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """Return the mean loss of the pairs."""
        del step
        terms = self._terms(module, frozen, batch, key)
        nll = -jnp.split(terms.policy.log_prob, 2)[0].mean()
        loss = preference_loss(terms.preferred, terms.rejected, beta=self.config.beta).mean()
        loss = loss + self.config.preferred_weight * nll
        policy = terms.policy
        return loss, {
            "loss": (loss, jnp.ones(())),
            **_of_pairs(terms, batch),
            "kl": summed(policy.kl, {}),
            "kl_infinite": summed(policy.kl_infinite, {}),
            "entropy_kept": (policy.entropy.sum(), policy.reference_entropy.sum()),
        }

    def evaluate(self, module: Dalle | DalleBart, frozen: Frozen, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Return the metrics of held-out pairs, or else the nats of held-out images and the effect of guidance."""
        if REJECTED not in batch:
            return self.generate.evaluate(module, frozen, batch, key)
        return _of_pairs(self._terms(module, frozen, batch, None), batch)

    def _terms(
        self, module: CachedGenerator, frozen: Frozen, batch: Batch, dropout_key: Key[Array, ""] | None
    ) -> PairTerms:
        """Return the terms of both images under both models, by teacher forcing of all images in one batch."""
        config, reference = self.config.generate, cast(CachedGenerator, frozen[REFERENCE])
        text = jnp.tile(batch["text"], (2, 1))  # [2*B T]
        codes = self.generate.codes_of(frozen, {"pixels": jnp.concatenate([batch["pixels"], batch[REJECTED]])})
        own = module.outputs(text, codes, dropout_key=dropout_key).image
        fixed = jax.lax.stop_gradient(reference.outputs(text, codes).image)
        logits, fixed_logits = (_code_logits(one, config.model.codebook_size) for one in (module, reference))
        policy = policy_terms_in_parts(logits, own, fixed_logits, fixed, codes, config.loss_parts)
        nats = jax.lax.stop_gradient(cross_entropy_in_parts(fixed_logits, fixed, codes, config.loss_parts).nats)
        preferred, rejected = jnp.split((policy.log_prob + nats).sum(axis=-1), 2)  # [B] each
        return PairTerms(preferred, rejected, policy)


def _code_logits(network: CachedGenerator, size: int) -> Callable[[Float[Array, "B l D"]], Float[Array, "B l K"]]:
    """Return the function from outputs to the logits of the ``size`` codes."""
    predict = network.codes.predictor()
    return lambda outputs: predict(outputs)[..., :size]


def _of_pairs(terms: PairTerms, batch: Batch) -> MetricSums:
    """Return the gain of each image, their difference, and the share of pairs whose preferred image gained more."""
    gap = terms.preferred - terms.rejected
    return {
        "preferred_gain": summed(terms.preferred, batch),
        "rejected_gain": summed(terms.rejected, batch),
        "preference_margin": summed(gap, batch),
        "preference_accuracy": summed((gap > 0).astype(jnp.float32), batch),
    }
