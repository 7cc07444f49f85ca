"""Optimizers: a closed union of dataclasses, each of which gives an optax transformation without its learning rate.

Every transformation returns the descent direction; the train step subtracts it times the schedule's rate. Weight decay
is decoupled (arXiv 1711.05101) and so is multiplied by the rate too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import optax

from dalle_jax.parallel.axes import LAYERS

Mask = Mapping[str, bool]


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1412.6980, 1711.05101)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def transformation(self, decays: Mask) -> optax.GradientTransformation:
        """Moments in float32; ``decays`` says which parameters are decayed."""
        adam = optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon)
        return _with_decay(adam, self.weight_decay, decays)


@dataclass(frozen=True)
class Adafactor:
    """Second moments kept as rows and columns (arXiv 1804.04235), updates relative to the size of the parameter."""

    decay: float = 0.8
    clipping: float = 1.0
    factored_from: int = 128
    weight_decay: float = 0.0

    def transformation(self, decays: Mask) -> optax.GradientTransformation:
        """Matrices with both sides of at least ``factored_from`` are factored."""
        adafactor = optax.chain(
            optax.scale_by_factored_rms(decay_rate=self.decay, min_dim_size_to_factor=self.factored_from),
            optax.clip_by_block_rms(self.clipping),
            optax.scale_by_param_block_rms(),
        )
        return _with_decay(adafactor, self.weight_decay, decays)


@dataclass(frozen=True)
class Lion:
    """The sign of an interpolated momentum (arXiv 2302.06675, algorithm 2)."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def transformation(self, decays: Mask) -> optax.GradientTransformation:
        """One moment for each parameter."""
        return _with_decay(optax.scale_by_lion(b1=self.beta1, b2=self.beta2), self.weight_decay, decays)


Optimizer: TypeAlias = AdamW | Adafactor | Lion


def is_decayed(name: str, axes: Sequence[str | None] | None, shape: Sequence[int]) -> bool:
    """Whether weight decay applies: to matrices and tables, not to biases, scales and other vectors.

    The stacked axis of a scan over layers is not counted.
    """
    stacked = axes is not None and (LAYERS in axes or len(shape) > len(axes))
    dimensions = len(shape) - (1 if stacked else 0)
    return dimensions >= 2 and "bias" not in name.rsplit(".", 1)[-1]


def state_shardings(
    transformation: optax.GradientTransformation, params: Mapping[str, Any], shardings: Mapping[str, Any], whole: Any
) -> Any:
    """Shardings of the optimizer state: a moment of its parameter's shape lies as the parameter, the rest is ``whole``.

    Without them ``jax.jit(transformation.init)`` replicates every moment and says nothing.
    """

    def moment(leaf: Any, sharding: Any, param: Any) -> Any:
        return sharding if leaf.shape == param.shape else whole

    return optax.tree_utils.tree_map_params(
        transformation,
        moment,
        jax.eval_shape(transformation.init, dict(params)),
        dict(shardings),
        dict(params),
        transform_non_params=lambda _: whole,
    )


def _with_decay(transformation: optax.GradientTransformation, decay: float, mask: Mask) -> optax.GradientTransformation:
    if decay == 0.0:
        return transformation

    def masked(params: Any) -> dict[str, bool]:
        return {name: mask[name] for name in params}

    return optax.chain(transformation, optax.add_decayed_weights(decay, mask=masked))
