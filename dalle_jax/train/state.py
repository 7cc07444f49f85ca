"""The training state as one tree of arrays, and the conversion between an nnx module and flat dictionaries.

A module is split once. Jitted functions take and return flat dictionaries of arrays by dotted path ("blocks.0.scale"),
which dispatch fast. They merge the module inside, since ``jax.jit`` over nnx objects silently drops in-place updates.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeAlias, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import NamedSharding

from dalle_jax.arrays import Array, PyTree
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.optim import optimizers, parameter_masks, schedules
from dalle_jax.train.optim.gradient_spikes import RunningNorms
from dalle_jax.train.task import Objective, Task
from dalle_jax.train.trainer import Trainer

if TYPE_CHECKING:
    Arrays: TypeAlias = dict[str, Array]
else:
    Arrays = dict[str, Array | np.ndarray]
"""Arrays by dotted path. At run time, values of imported weights are numpy arrays."""

Node = TypeVar("Node", bound=nnx.Module | Mapping[str, nnx.Module])
"""A module, or modules by name."""


class Learned(NamedTuple):
    """The model and its optimizers.

    ``non_params`` holds variables that are not parameters (batch statistics, codebooks, random keys). ``ema_params`` is
    empty without an EMA. ``optimizers`` has one optax state for each objective.
    """

    params: Arrays
    non_params: Arrays
    ema_params: Arrays
    optimizers: dict[str, PyTree]


class Counted(NamedTuple):
    """Counters that advance at every step, skipped or not.

    ``skipped`` counts updates that were not finite, and ``spiked`` updates skipped for a spike of the gradient norm.
    ``skipped_in_a_row`` counts both since the last update that was applied.
    """

    step: Array
    skipped: Array
    spiked: Array
    skipped_in_a_row: Array

    @classmethod
    def zero(cls) -> "Counted":
        """Return the counters of step 0."""
        zero = jnp.zeros((), jnp.int32)
        return Counted(zero, zero, zero, zero)


class Remembered(NamedTuple):
    """Statistics of the applied updates.

    ``gradient_norms`` has the running average of each objective's gradient norm. ``schedule`` is the state of the
    learning rate schedule; most schedules have none.
    """

    gradient_norms: RunningNorms
    schedule: PyTree


class State(NamedTuple):
    """The training state. A skipped update leaves ``learned`` and ``remembered`` unchanged."""

    learned: Learned
    counted: Counted
    remembered: Remembered


@dataclass(frozen=True)
class ModuleSpec(Generic[Node]):
    """The structure of an nnx module without values: enough to rebuild the module from arrays."""

    graph: nnx.GraphDef[Node]
    paths: dict[str, tuple[Any, ...]]
    variables: dict[str, nnx.Variable]

    @classmethod
    def of(cls, module: Node) -> "ModuleSpec[Node]":
        """Return the spec of a module, which may be abstract (``nnx.eval_shape``)."""
        graph, state = nnx.split(module)
        flat = dict(nnx.to_flat_state(state))
        paths = {".".join(map(str, path)): path for path in flat}
        return cls(graph, paths, {name: flat[path] for name, path in paths.items()})

    def is_param(self, name: str) -> bool:
        """Return True if the variable is a parameter, which has gradients, and False for all other variables."""
        return isinstance(self.variables[name], nnx.Param)

    def params(self) -> dict[str, nnx.Variable]:
        """Return the parameters by dotted path."""
        return {name: variable for name, variable in self.variables.items() if self.is_param(name)}

    def matching(self, chosen: nnx.filterlib.Filter) -> tuple[str, ...]:
        """Return the names of the parameters that an nnx filter matches."""
        matches = nnx.filterlib.to_predicate(chosen)
        return tuple(name for name, variable in self.params().items() if matches(self.paths[name], variable))

    def axes(self, name: str) -> tuple[str | None, ...] | None:
        """Return the logical axes of a variable, or None if it has none."""
        return self.variables[name].get_metadata().get("axes")

    def merge(self, *arrays: Mapping[str, Array | np.ndarray]) -> Node:
        """Build the module with values from ``arrays``, which must cover all of its variables."""
        values = {name: value for part in arrays for name, value in part.items()}
        flat = [(path, self._variable(name, values[name])) for name, path in self.paths.items()]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def split(self, module: Node) -> tuple[Arrays, Arrays]:
        """Return the parameters and the other variables of a module with this spec.

        Random keys are returned as their raw words (``jax.random.key_data``).
        """
        params: Arrays = {}
        non_params: Arrays = {}
        for path, variable in nnx.to_flat_state(nnx.split(module)[1]):
            name = ".".join(map(str, path))
            value = variable.get_value()
            if _is_key(value):
                value = jax.random.key_data(value)
            (params if self.is_param(name) else non_params)[name] = value
        return params, non_params

    def changed(self, module: Node, non_params: Arrays) -> list[str]:
        """Return the names of the variables in ``non_params`` that a traced function has set since ``merge``."""
        now = self.split(module)[1]
        keys = {name for name, variable in self.variables.items() if _is_key(variable.get_value())}
        return [name for name, value in now.items() if name not in keys and value is not non_params[name]]

    def stored(self) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes and dtypes of the arrays that ``split`` returns."""
        values = {name: variable.get_value() for name, variable in self.variables.items()}
        return {
            name: jax.eval_shape(jax.random.key_data, value)
            if _is_key(value)
            else jax.ShapeDtypeStruct(value.shape, value.dtype)
            for name, value in values.items()
        }

    def shardings(self, layout: Layout) -> dict[str, NamedSharding]:
        """Return the sharding of each variable."""
        found = {}
        for name, variable in self.variables.items():
            axes = self.axes(name)
            shape = variable.get_value().shape
            found[name] = layout.replicated if axes is None else layout.sharding(axes, shape, f"parameter {name}")
        return found

    def _variable(self, name: str, value: Array | np.ndarray) -> nnx.Variable:
        variable = self.variables[name]
        if _is_key(variable.get_value()):
            value = jax.random.wrap_key_data(jnp.asarray(value))
        return variable.replace(value)


@dataclass(frozen=True)
class StateSpec:
    """The structure of a training state: shapes, dtypes and shardings without values, and a function that builds it.

    ``abstract`` is a state of shapes and dtypes, ``shardings`` a state of shardings. ``trainable`` has the names of the
    parameters that each objective trains. ``build`` maps a random key to a state.
    """

    module_spec: ModuleSpec
    transformations: dict[str, optax.GradientTransformation]
    trainable: dict[str, tuple[str, ...]]
    abstract: State
    shardings: PyTree
    build: Callable[[Array], State]

    def init_sharded(self, layout: Layout, seed: int) -> State:
        """Return the state of step 0. Every array is created sharded, so no device ever holds all of it."""
        return layout.jit(self.build, out_shardings=self.shardings)(jax.random.key(seed))

    def describe(self) -> str | None:
        """Return a line with the number of trained parameters, or None if all parameters are trained."""
        params = self.abstract.learned.params
        trainable = {name for names in self.trainable.values() for name in names}
        if len(trainable) == len(params):
            return None
        numbers = sum(params[name].size for name in trainable), sum(one.size for one in params.values())
        return (
            f"trains {len(trainable)} of {len(params)} parameter arrays, "
            f"which have {numbers[0]:,} of {numbers[1]:,} values"
        )

    def target(self) -> State:
        """Return shapes, dtypes and shardings together, for restoring a checkpoint."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self.abstract,
            self.shardings,
        )


def state_spec(task: Task, trainer: Trainer, layout: Layout) -> StateSpec:
    """Return the spec of the state that a trainer needs for a task.

    Raise UserError if ``trainer.trainable`` leaves an objective without parameters to train.
    """
    module_spec = ModuleSpec.of(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))
    transformation = trainer.optimizer.transformation(_traits(module_spec, trainer.weight_decay_mask))
    names = trainer.trainable.select(module_spec.params())
    trainable = {objective.name: _trainable(module_spec, objective, names) for objective in task.objectives()}
    transformations = dict.fromkeys(trainable, transformation)

    def build(key: Array) -> State:
        params, non_params = module_spec.split(task.init(nnx.Rngs(key)))
        # A copy, since parameters and EMA could not both be donated if they shared buffers.
        ema_params = jax.tree.map(jnp.copy, params) if trainer.ema is not None else {}
        states = {
            name: transformation.init({path: params[path] for path in paths}) for name, paths in trainable.items()
        }
        learned = Learned(params, non_params, ema_params, states)
        remembered = Remembered(RunningNorms.none(trainable), schedules.first_state(trainer.schedule))
        return State(learned, Counted.zero(), remembered)

    abstract = jax.eval_shape(build, jax.random.key(0))
    shardings = _shardings(module_spec, transformation, trainable, abstract, layout)
    return StateSpec(module_spec, transformations, trainable, abstract, shardings, build)


def _traits(module_spec: ModuleSpec, mask: parameter_masks.WeightDecayMask) -> parameter_masks.Parameters:
    shapes = {
        name: parameter_masks.ParameterShape(module_spec.axes(name), variable.get_value().shape)
        for name, variable in module_spec.params().items()
    }
    decayed = mask.select(shapes)
    return {
        name: parameter_masks.ParameterTraits(
            tuple(one.axes or ()), name in decayed, parameter_masks.stacked_dimensions(one.axes, one.shape)
        )
        for name, one in shapes.items()
    }


def _shardings(
    module_spec: ModuleSpec,
    transformation: optax.GradientTransformation,
    trainable: Mapping[str, tuple[str, ...]],
    abstract: State,
    layout: Layout,
) -> State:
    of_variable: PyTree = module_spec.shardings(layout)
    replicated = layout.replicated
    learned = abstract.learned
    states = {}
    for name, paths in trainable.items():
        params = {path: learned.params[path] for path in paths}
        of_params = {path: of_variable[path] for path in paths}
        states[name] = optimizers.state_shardings(transformation, params, of_params, replicated)
    return State(
        Learned(
            {name: of_variable[name] for name in learned.params},
            {name: of_variable[name] for name in learned.non_params},
            {name: of_variable[name] for name in learned.ema_params},
            states,
        ),
        jax.tree.map(lambda _: replicated, abstract.counted),
        jax.tree.map(lambda _: replicated, abstract.remembered),
    )


def _trainable(module_spec: ModuleSpec, objective: Objective, among: set[str]) -> tuple[str, ...]:
    names = module_spec.matching(objective.trains)
    if not names:
        raise ValueError(
            f"objective {objective.name!r}: expected a filter that matches a parameter, got {objective.trains!r}"
        )
    kept = tuple(name for name in names if name in among)
    if not kept:
        raise UserError(
            f"trainer.trainable: expected some of the {len(names)} parameters of the objective {objective.name!r}, got "
            f"none of them; they are {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}: choose among them with "
            "trainer.trainable = @TrainNamed, or leave trainer.trainable out to train all"
        )
    return kept


def _is_key(value: Array | np.ndarray | jax.ShapeDtypeStruct) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
