"""Which parameters a run trains: a closed union of small dataclasses.

What is not trained has no gradient, no moments, no weight decay, and an average that stays what it was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from dalle_jax.layers.embeddings import EmbeddingParam
from dalle_jax.layers.norms import NormParam
from dalle_jax.train.optim.parameter_patterns import fitting


@dataclass(frozen=True)
class TrainAll:
    """Every parameter."""

    def chosen(self, parameters: Mapping[str, Any]) -> set[str]:
        """Names of the parameters that are trained."""
        return set(parameters)


@dataclass(frozen=True)
class TrainEmbeddingsAndNorms:
    """Tables of tokens, positions and codes, and the scales and biases of norms; no heads and no other biases."""

    def chosen(self, parameters: Mapping[str, Any]) -> set[str]:
        """Names of the parameters that are trained."""
        return {name for name, one in parameters.items() if isinstance(one, EmbeddingParam | NormParam)}


@dataclass(frozen=True)
class TrainNamed:
    """Parameters whose dotted path fits one of ``only`` and none of ``but``: patterns with * ("codes.head.*")."""

    only: tuple[str, ...]
    but: tuple[str, ...] = ()

    def chosen(self, parameters: Mapping[str, Any]) -> set[str]:
        """Names of the parameters that are trained; UserError for a pattern that fits none."""
        return fitting("trainer.trained", parameters, self.only, self.but)


Trainable: TypeAlias = TrainAll | TrainEmbeddingsAndNorms | TrainNamed
