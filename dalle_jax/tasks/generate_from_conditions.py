"""Train a transformer that is asked by classes or by a text encoder's features: conditions to codes written ahead."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, ExampleBatch, Float, Key
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.losses.cross_entropy import cross_entropy
from dalle_jax.models.llamagen import ByCaption, ByClass, LlamaGen, LlamaGenConfig
from dalle_jax.pipelines.load.models import ModelFile, absolute_needs
from dalle_jax.pipelines.prompts import class_rows, feature_rows
from dalle_jax.tasks.batches import code_rows, summed, text_spec
from dalle_jax.train.task import Batch, MetricSums, Objective, Seed


@dataclass(frozen=True)
class GenerateFromConditions:
    """p(codes | condition), both from the data: ``codes``, and ``condition``, a class or features [t c] of a caption.

    Features of fewer positions than the model has are padded before them, of more they keep their beginning. ``blanks``
    is the share of conditions replaced by the empty one, which is what guidance needs (LlamaGen has 0.1).
    ``image_tokenizer`` is the folder of the one that the codes are of, which draws what is trained here; codes that
    ``encode`` wrote say it themselves.
    """

    model: LlamaGenConfig
    blanks: float = 0.1
    image_tokenizer: str | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.blanks < 1.0:
            raise ValueError(f"blanks: expected a share in [0, 1), got {self.blanks}")
        if self.model.code_width:
            raise ValueError(
                f"model.code_width: expected 0 where codes are written ahead and their vectors are not at hand, "
                f"got {self.model.code_width}"
            )

    def prepare(self, examples: ExampleBatch, seeds: Sequence[Seed] | None) -> dict[str, np.ndarray]:
        """``codes`` int32 [B I], and ``condition`` int32 [B] or float32 [B T c]."""
        del seeds
        if "condition" not in examples:
            raise UserError(
                "data: expected a condition beside the codes of every image (data.source.conditions), it holds "
                f"{', '.join(sorted(examples))}"
            )
        kind, given = self.model.condition, examples["condition"]
        where = "data: condition"
        rows = class_rows(given, kind, where) if isinstance(kind, ByClass) else feature_rows(given, kind, where)
        return {"codes": code_rows(examples, self.model.grid, self.model.codebook_size), "condition": rows}

    def batch_spec(self, batch_size: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes of ``prepare``."""
        kind = self.model.condition
        condition = jax.ShapeDtypeStruct((batch_size,), jnp.int32)
        if isinstance(kind, ByCaption):
            condition = jax.ShapeDtypeStruct((batch_size, kind.length, kind.width), jnp.float32)
        return {"codes": text_spec(batch_size, math.prod(self.model.grid)), "condition": condition}

    def init(self, rngs: nnx.Rngs) -> LlamaGen:
        """A new transformer."""
        return LlamaGen(self.model, rngs=rngs)

    def frozen(self) -> None:
        """Nothing: codes are written ahead."""

    def objectives(self) -> tuple[Objective, ...]:
        """One: predict."""
        return (Objective("predict", nnx.Param, self.loss),)

    def loss(
        self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""], step: Array
    ) -> tuple[Float[Array, ""], MetricSums]:
        """The mean nats of a code, some conditions blanked."""
        del frozen, step
        blank_key, dropout_key = jax.random.split(key)
        condition = batch["condition"]
        blank = jax.random.bernoulli(blank_key, self.blanks, (condition.shape[0], *(1,) * (condition.ndim - 1)))
        condition = jnp.where(blank, module.empty(condition), condition)
        logits = module(condition, batch["codes"], dropout_key=dropout_key)
        nats = cross_entropy(logits.image, batch["codes"])
        loss = nats.mean()
        return loss, _sums(nats, batch) | {"loss": (loss, jnp.ones(()))}

    def evaluate(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> MetricSums:
        """Nats per code of held-out images."""
        del frozen, key
        return _sums(cross_entropy(module(batch["condition"], batch["codes"]).image, batch["codes"]), batch)

    def images(self, module: Any, frozen: Any, batch: Batch, key: Key[Array, ""]) -> None:
        """None: there is nothing here to decode codes."""
        del module, frozen, batch, key

    def model_files(self) -> dict[str, bytes]:
        """``model.gin``, which also says which image tokenizer the codes are of."""
        needs = absolute_needs(image_tokenizer=self.image_tokenizer)
        return {"model.gin": render(ModelFile(model=self.model, needs=needs)).encode()}


def _sums(nats: Float[Array, "B I"], batch: Batch) -> MetricSums:
    return {"image_nll": summed(nats, batch)}
