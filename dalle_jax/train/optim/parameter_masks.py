"""Selections of parameters: the trainable ones, and the ones that weight decay applies to.

Each is a closed union of small dataclasses. A parameter that is not trained has no gradient, no moments and no weight
decay, and its EMA keeps its value.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TypeAlias

import optax
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.config.problems import did_you_mean
from dalle_jax.layers.embeddings import EmbeddingParam
from dalle_jax.layers.norms import NormParam
from dalle_jax.parallel.axes import LAYERS

Axes: TypeAlias = Sequence[str | None]


@dataclass(frozen=True)
class TrainAll:
    """Training of every parameter."""

    def select(self, parameters: Mapping[str, nnx.Variable]) -> set[str]:
        """Return the names of all parameters."""
        return set(parameters)


@dataclass(frozen=True)
class TrainEmbeddingsAndNorms:
    """Training of embedding tables, and of the scales and biases of norms, but not of heads and other biases."""

    def select(self, parameters: Mapping[str, nnx.Variable]) -> set[str]:
        """Return the names of embedding and norm parameters."""
        return {name for name, one in parameters.items() if isinstance(one, EmbeddingParam | NormParam)}


@dataclass(frozen=True)
class TrainNamed:
    """Training of parameters whose dotted path matches a pattern of ``only`` ("codes.head.*") and none of ``but``."""

    only: tuple[str, ...]
    but: tuple[str, ...] = ()

    def select(self, parameters: Mapping[str, nnx.Variable]) -> set[str]:
        """Return the names that match. Raise UserError if a pattern matches nothing."""
        return match_patterns("trainer.trainable", parameters, self.only, self.but)


Trainable: TypeAlias = TrainAll | TrainEmbeddingsAndNorms | TrainNamed


@dataclass(frozen=True)
class ParameterShape:
    """The logical axes of a parameter (None if it names none) and its shape."""

    axes: Axes | None
    shape: Sequence[int]


@dataclass(frozen=True)
class DecayMatrices:
    """Weight decay of matrices and tables, but not of biases, scales and other vectors (as in CLIP)."""

    def select(self, parameters: Mapping[str, ParameterShape]) -> set[str]:
        """Return the names of matrices and tables."""
        return {name for name, one in parameters.items() if is_matrix(name, one.axes, one.shape)}


@dataclass(frozen=True)
class DecayAll:
    """Weight decay of every parameter."""

    def select(self, parameters: Mapping[str, ParameterShape]) -> set[str]:
        """Return the names of all parameters."""
        return set(parameters)


@dataclass(frozen=True)
class DecayNamed:
    """Weight decay of parameters whose path matches a pattern of ``only`` ("stack.*.kernel") and none of ``but``."""

    only: tuple[str, ...]
    but: tuple[str, ...] = ()

    def select(self, parameters: Mapping[str, ParameterShape]) -> set[str]:
        """Return the names that match. Raise UserError if a pattern matches nothing."""
        return match_patterns("trainer.weight_decay_mask", parameters, self.only, self.but)


WeightDecayMask: TypeAlias = DecayMatrices | DecayAll | DecayNamed


@dataclass(frozen=True)
class RateFactors:
    """Factors of the learning rate by parameter. The first of ``patterns`` that matches a dotted path decides.

    ``factors`` has one number for each pattern ("codes.*", "*.kernel"). Other parameters have factor 1. The factor also
    multiplies weight decay, which is decoupled.
    """

    patterns: tuple[str, ...]
    factors: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.patterns) != len(self.factors) or any(factor < 0 for factor in self.factors):
            raise ValueError(
                f"factors: expected {len(self.patterns)} numbers of at least 0, one for each pattern, got "
                f"{self.factors}"
            )

    def of(self, names: Iterable[str]) -> dict[str, float]:
        """Return the factor of each parameter. Raise UserError if a pattern matches nothing."""
        found = dict.fromkeys(names, 1.0)
        for pattern, factor in reversed(list(zip(self.patterns, self.factors, strict=True))):
            found |= dict.fromkeys(match_patterns("trainer.rate_factors", found, (pattern,), ()), factor)
        return found


@dataclass(frozen=True)
class ParameterTraits:
    """The properties of a parameter that an optimizer may use: its logical axes, and whether weight decay applies.

    ``stacked`` is the number of its leading dimensions that are layers of a scan.
    """

    axes: tuple[str | None, ...]
    decays: bool
    stacked: int = 0


Parameters: TypeAlias = Mapping[str, ParameterTraits]


def match_patterns(field: str, names: Iterable[str], only: Sequence[str], but: Sequence[str]) -> set[str]:
    """Return the names that match a pattern of ``only`` and none of ``but``.

    Raise UserError, with the config field ``field``, if a pattern matches nothing.
    """
    names = sorted(names)
    idle = [one for one in (*only, *but) if not any(fnmatchcase(name, one) for name in names)]
    if idle:
        hints = "".join(did_you_mean(one, names) for one in idle[:1])
        raise UserError(
            f"{field}: expected patterns that match a parameter, got {', '.join(map(repr, idle))}{hints}; "
            f"the model has {len(names)}, such as {', '.join(names[:4])}"
        )
    chosen = {name for name in names if any(fnmatchcase(name, one) for one in only)}
    return {name for name in chosen if not any(fnmatchcase(name, one) for one in but)}


def stacked_dimensions(axes: Axes | None, shape: Sequence[int]) -> int:
    """Return the number of leading dimensions of a parameter that are layers of a scan."""
    if axes is None:
        return 0
    return len(shape) - len(axes) + list(axes).count(LAYERS)


def is_matrix(name: str, axes: Axes | None, shape: Sequence[int]) -> bool:
    """Return True for a matrix or a table, and False for a bias, a scale or any other vector.

    The stacked axis of a scan over layers is not counted as a dimension.
    """
    dimensions = len(shape) - min(stacked_dimensions(axes, shape), 1)
    return dimensions >= 2 and "bias" not in name.rsplit(".", 1)[-1]


def weight_decay_mask(parameters: Parameters) -> Callable[[Iterable[str]], dict[str, bool]]:
    """Return a mask function for optax: it maps each parameter's name to whether weight decay applies."""

    def mask(names: Iterable[str]) -> dict[str, bool]:
        return {name: parameters[name].decays for name in names}

    return mask


def add_weight_decay(
    transformation: optax.GradientTransformation, decay: float, parameters: Parameters
) -> optax.GradientTransformation:
    """Add decoupled weight decay (arXiv 1711.05101) to the direction of a transformation."""
    if decay == 0.0:
        return transformation
    return optax.chain(transformation, optax.add_decayed_weights(decay, mask=weight_decay_mask(parameters)))
