"""Which parameters weight decay reaches: a closed union of small dataclasses, and the decay itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import optax

from dalle_jax.parallel.axes import LAYERS
from dalle_jax.train.optim.parameter_patterns import fitting

Axes: TypeAlias = Sequence[str | None]


@dataclass(frozen=True)
class Shaped:
    """What is known of a parameter before it has a value: its logical axes (None if it names none) and its shape."""

    axes: Axes | None
    shape: Sequence[int]


@dataclass(frozen=True)
class Parameter:
    """What an optimizer may know of one parameter: the logical axes of its dimensions, and whether it is decayed."""

    axes: tuple[str | None, ...]
    decays: bool


Parameters = Mapping[str, Parameter]


@dataclass(frozen=True)
class DecayMatrices:
    """Matrices and tables, not biases, scales and other vectors (CLIP: all that is no gain or bias)."""

    def reached(self, parameters: Mapping[str, Shaped]) -> set[str]:
        """Names of the parameters that are decayed."""
        return {name for name, one in parameters.items() if is_matrix(name, one.axes, one.shape)}


@dataclass(frozen=True)
class DecayAll:
    """Every parameter."""

    def reached(self, parameters: Mapping[str, Shaped]) -> set[str]:
        """Names of the parameters that are decayed."""
        return set(parameters)


@dataclass(frozen=True)
class DecayNamed:
    """Parameters whose dotted path fits one of ``only`` and none of ``but``: patterns with * ("stack.*.kernel")."""

    only: tuple[str, ...]
    but: tuple[str, ...] = ()

    def reached(self, parameters: Mapping[str, Shaped]) -> set[str]:
        """Names of the parameters that are decayed; UserError for a pattern that fits none."""
        return fitting("trainer.decayed", parameters, self.only, self.but)


WeightDecayMask: TypeAlias = DecayMatrices | DecayAll | DecayNamed


def is_matrix(name: str, axes: Axes | None, shape: Sequence[int]) -> bool:
    """Whether a parameter is a matrix or a table and no bias, scale or other vector.

    The stacked axis of a scan over layers is not counted.
    """
    stacked = axes is not None and (LAYERS in axes or len(shape) > len(axes))
    dimensions = len(shape) - (1 if stacked else 0)
    return dimensions >= 2 and "bias" not in name.rsplit(".", 1)[-1]


def mask(parameters: Parameters) -> Any:
    """For optax: a function from parameters to whether each of them is decayed."""

    def masked(params: Any) -> dict[str, bool]:
        return {name: parameters[name].decays for name in params}

    return masked


def with_decay(
    transformation: optax.GradientTransformation, decay: float, parameters: Parameters
) -> optax.GradientTransformation:
    """The transformation with decoupled weight decay (arXiv 1711.05101) added to its direction."""
    if decay == 0.0:
        return transformation
    return optax.chain(transformation, optax.add_decayed_weights(decay, mask=mask(parameters)))
