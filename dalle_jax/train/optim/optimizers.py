"""Optimizers: a closed union of dataclasses, each of which gives an optax transformation without its learning rate.

Every transformation returns the descent direction; the train step subtracts it times the schedule's rate. Weight decay
is decoupled (arXiv 1711.05101) and so is multiplied by the rate too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import jax
import optax

from dalle_jax.parallel.axes import CODES, EMBED, LAYERS, POSITIONS, VOCAB
from dalle_jax.train.optim.optax_by_name import Optax
from dalle_jax.train.optim.weight_decay import Axes, Parameters, with_decay


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1412.6980, 1711.05101).

    DALL·E 1's transformer had beta2 0.96 and weight_decay 4.5e-2 (arXiv 2102.12092, appendix B), and held its moments
    in 16 bits. ``first_moment`` halves the memory of the first; the second stays in float32, since bfloat16 cannot tell
    v from v + (1 - beta2) g^2 once the change is below v / 256.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    first_moment: Literal["float32", "bfloat16"] = "float32"

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Two moments for each parameter."""
        adam = optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon, mu_dtype=self.first_moment)
        return with_decay(adam, self.weight_decay, parameters)


@dataclass(frozen=True)
class Adafactor:
    """Second moments kept as rows and columns (arXiv 1804.04235), updates relative to the size of the parameter."""

    decay: float = 0.8
    clipping: float = 1.0
    factored_from: int = 128
    weight_decay: float = 0.0

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Matrices with both sides of at least ``factored_from`` are factored."""
        adafactor = optax.chain(
            optax.scale_by_factored_rms(decay_rate=self.decay, min_dim_size_to_factor=self.factored_from),
            optax.clip_by_block_rms(self.clipping),
            optax.scale_by_param_block_rms(),
        )
        return with_decay(adafactor, self.weight_decay, parameters)


@dataclass(frozen=True)
class Lion:
    """The sign of an interpolated momentum (arXiv 2302.06675, algorithm 2)."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """One moment for each parameter."""
        return with_decay(optax.scale_by_lion(b1=self.beta1, b2=self.beta2), self.weight_decay, parameters)


@dataclass(frozen=True)
class Muon:
    """Orthogonalised momentum for the matrices between hidden layers (Jordan et al. 2024), Adam for all else.

    Updates of matrices have the root mean square of Adam's, 0.2 (arXiv 2502.16982, section 2.2), so one rate fits both.
    """

    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Tables, heads, biases and norms go to Adam."""
        numbers = {name: matrix_dimensions(parameter.axes) for name, parameter in parameters.items()}

        def labels(params: Any) -> dict[str, str]:
            return {name: "adam" if numbers[name] is None else "muon" for name in params}

        def dimensions(params: Any) -> dict[str, Any]:
            return {name: numbers[name] or optax.MaskedNode() for name in params}

        def like_adam(updates: Any, params: Any) -> Any:
            del params
            return {name: _like_adam(update, numbers[name]) for name, update in updates.items()}

        orthogonal = optax.contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=dimensions)
        muon = optax.chain(orthogonal, optax.stateless(like_adam))
        adam = optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon)
        return with_decay(optax.partition({"muon": muon, "adam": adam}, labels), self.weight_decay, parameters)


Optimizer: TypeAlias = AdamW | Adafactor | Lion | Muon | Optax


def matrix_dimensions(axes: Axes) -> optax.contrib.MuonDimensionNumbers | None:
    """Which dimensions of a parameter are the inputs and the outputs of its matrix; None for what is no hidden matrix.

    One side is EMBED, the other all other named dimensions; unnamed ones and LAYERS count matrices.
    """
    others = tuple(i for i, axis in enumerate(axes) if axis not in (None, LAYERS, EMBED))
    if EMBED not in axes or not others or set(axes) & {VOCAB, CODES, POSITIONS}:
        return None
    embed = axes.index(EMBED)
    if embed < others[0]:
        return optax.contrib.MuonDimensionNumbers(reduction_axis=embed, output_axis=others)
    return optax.contrib.MuonDimensionNumbers(reduction_axis=others, output_axis=embed)


def _like_adam(update: Any, dimensions: optax.contrib.MuonDimensionNumbers | None) -> Any:
    """An orthogonal update at the root mean square of Adam's; what is masked stays as it is."""
    if dimensions is None:
        return update
    sides = [math.prod(update.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,))) for axis in dimensions]
    return update * (0.2 * max(sides) ** 0.5)


def state_shardings(
    transformation: optax.GradientTransformation, params: Mapping[str, Any], shardings: Mapping[str, Any], whole: Any
) -> Any:
    """Shardings of the optimizer state: a moment of its parameter's shape lies as the parameter, the rest is ``whole``.

    Without them ``jax.jit(transformation.init)`` replicates every moment and says nothing.
    """

    def one(path: Any, leaf: Any) -> Any:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key in params]
        moment = bool(names) and leaf.shape == params[names[-1]].shape
        return shardings[names[-1]] if moment else whole

    return jax.tree_util.tree_map_with_path(one, jax.eval_shape(transformation.init, dict(params)))
