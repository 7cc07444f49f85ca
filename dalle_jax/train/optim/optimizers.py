"""Optimizers: a closed union of dataclasses, each of which returns an optax transformation without a learning rate.

A transformation returns the descent direction. The training step multiplies it by the schedule's rate and subtracts it.
Weight decay is decoupled (arXiv 1711.05101), so the rate multiplies it too.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypeVar

import jax
import optax

from dalle_jax.arrays import Array, PyTree
from dalle_jax.parallel.axes import CODES, EMBED, LAYERS, POSITIONS, VOCAB
from dalle_jax.train.optim.optax_by_name import Optax
from dalle_jax.train.optim.parameter_masks import Axes, Parameters, add_weight_decay

S = TypeVar("S")
"""The type of a sharding."""

Update: TypeAlias = Array | optax.MaskedNode
"""The update of a parameter, or the mask of one that a different transformation updates."""


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (arXiv 1412.6980, 1711.05101).

    DALL·E 1's transformer used beta2 0.96 and weight_decay 4.5e-2 (arXiv 2102.12092, appendix B), and kept its
    moments in 16 bits. ``first_moment`` is the dtype of the first moment. The second stays in float32, since bfloat16
    cannot distinguish v from v + (1 - beta2) g^2 once the change is below v / 256.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    first_moment: Literal["float32", "bfloat16"] = "float32"

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Return Adam, which keeps two moments per parameter."""
        adam = optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon, mu_dtype=self.first_moment)
        return add_weight_decay(adam, self.weight_decay, parameters)


@dataclass(frozen=True)
class Adafactor:
    """Adafactor: factored second moments, and updates relative to the parameter's scale (arXiv 1804.04235).

    Each layer of a scan is a parameter of its own, so updates are those of a model without scan.
    """

    decay: float = 0.8
    clipping: float = 1.0
    factored_from: int = 128
    weight_decay: float = 0.0

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Return Adafactor, which factors matrices whose sides are both at least ``factored_from``."""
        adafactor = optax.chain(
            optax.scale_by_factored_rms(decay_rate=self.decay, min_dim_size_to_factor=self.factored_from),
            optax.clip_by_block_rms(self.clipping),
            optax.scale_by_param_block_rms(),
        )
        return add_weight_decay(_by_layer(adafactor, parameters), self.weight_decay, parameters)


@dataclass(frozen=True)
class Lion:
    """The sign of an interpolated momentum (arXiv 2302.06675, algorithm 2)."""

    beta1: float = 0.9
    beta2: float = 0.99
    weight_decay: float = 0.0

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Return Lion, which keeps one moment per parameter."""
        return add_weight_decay(optax.scale_by_lion(b1=self.beta1, b2=self.beta2), self.weight_decay, parameters)


@dataclass(frozen=True)
class Muon:
    """Muon: orthogonalised momentum for hidden matrices (Jordan et al. 2024), Adam for all other parameters.

    Updates of matrices are scaled to the root mean square of Adam's, 0.2 (arXiv 2502.16982, section 2.2), so the same
    rate fits both.
    """

    momentum: float = 0.95
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def transformation(self, parameters: Parameters) -> optax.GradientTransformation:
        """Return Muon for hidden matrices; tables, heads, biases and norms use Adam."""
        numbers = {name: matrix_dimensions(parameter.axes) for name, parameter in parameters.items()}

        def labels(params: Iterable[str]) -> dict[str, str]:
            return {name: "adam" if numbers[name] is None else "muon" for name in params}

        def dimensions(
            params: Iterable[str],
        ) -> dict[str, optax.contrib.MuonDimensionNumbers | optax.MaskedNode]:
            return {name: numbers[name] or optax.MaskedNode() for name in params}

        def like_adam(updates: Mapping[str, Update], params: PyTree) -> dict[str, Update]:
            del params
            return {name: _like_adam(update, numbers[name]) for name, update in updates.items()}

        orthogonal = optax.contrib.scale_by_muon(beta=self.momentum, weight_dimension_numbers=dimensions)
        muon = optax.chain(orthogonal, optax.stateless(like_adam))
        adam = optax.scale_by_adam(b1=self.beta1, b2=self.beta2, eps=self.epsilon)
        return add_weight_decay(optax.partition({"muon": muon, "adam": adam}, labels), self.weight_decay, parameters)


def _by_layer(transformation: optax.GradientTransformation, parameters: Parameters) -> optax.GradientTransformation:
    """Apply a transformation to each layer of stacked parameters alone; without stacks it is returned unchanged."""
    stacked = {name: one.stacked for name, one in parameters.items() if one.stacked}
    if not stacked:
        return transformation

    def plain(tree: Mapping[str, Array]) -> dict[str, Array]:
        return {name: value for name, value in tree.items() if name not in stacked}

    def of_layers(function: Callable[..., PyTree], name: str) -> Callable[..., PyTree]:
        for _ in range(stacked[name]):
            function = jax.vmap(function)
        return function

    def init(params: Mapping[str, Array]) -> dict[str, PyTree]:
        layers = {name: of_layers(transformation.init, name)(params[name]) for name in params if name in stacked}
        return {"layers": layers, "plain": transformation.init(plain(params))}

    def update(
        updates: Mapping[str, Array], state: Mapping[str, PyTree], params: Mapping[str, Array]
    ) -> tuple[dict[str, Array], dict[str, PyTree]]:
        found, rest = transformation.update(plain(updates), state["plain"], plain(params))
        layers = {}
        for name in state["layers"]:
            step = of_layers(transformation.update, name)
            found[name], layers[name] = step(updates[name], state["layers"][name], params[name])
        return {name: found[name] for name in updates}, {"layers": layers, "plain": rest}

    return optax.GradientTransformation(init, update)


Optimizer: TypeAlias = AdamW | Adafactor | Lion | Muon | Optax


def matrix_dimensions(axes: Axes) -> optax.contrib.MuonDimensionNumbers | None:
    """Return the input and output dimensions of a hidden matrix, or None for a parameter that is not one.

    One side is EMBED, the other side all other named dimensions. Dimensions without a name, and LAYERS, are stacks of
    matrices.
    """
    others = tuple(i for i, axis in enumerate(axes) if axis not in (None, LAYERS, EMBED))
    if EMBED not in axes or not others or set(axes) & {VOCAB, CODES, POSITIONS}:
        return None
    embed = axes.index(EMBED)
    if embed < others[0]:
        return optax.contrib.MuonDimensionNumbers(reduction_axis=embed, output_axis=others)
    return optax.contrib.MuonDimensionNumbers(reduction_axis=others, output_axis=embed)


def _like_adam(update: Update, dimensions: optax.contrib.MuonDimensionNumbers | None) -> Update:
    """Scale an orthogonal update to the root mean square of Adam's; without dimensions, return it unchanged."""
    if dimensions is None or isinstance(update, optax.MaskedNode):
        return update
    sides = [math.prod(update.shape[i] for i in (axis if isinstance(axis, tuple) else (axis,))) for axis in dimensions]
    return update * (0.2 * max(sides) ** 0.5)


def state_shardings(
    transformation: optax.GradientTransformation,
    params: Mapping[str, Array | jax.ShapeDtypeStruct],
    shardings: Mapping[str, S],
    replicated: S,
) -> PyTree:
    """Return the shardings of the optimizer state.

    A moment with its parameter's shape is sharded like the parameter; all else is ``replicated``. Without explicit
    shardings, ``jax.jit(transformation.init)`` silently replicates every moment.
    """

    def sharding_of(path: tuple[object, ...], leaf: jax.ShapeDtypeStruct) -> S:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey) and key.key in params]
        moment = bool(names) and leaf.shape == params[names[-1]].shape
        return shardings[names[-1]] if moment else replicated

    return jax.tree_util.tree_map_with_path(sharding_of, jax.eval_shape(transformation.init, dict(params)))
