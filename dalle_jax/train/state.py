"""What training changes, as one tree of arrays, and the way from an nnx module to it and back.

The module is split once. Jitted functions take and give flat dictionaries of arrays by dotted path ("blocks.0.scale"),
which dispatch fast, and merge the module inside: ``jax.jit`` over nnx objects would drop in-place updates in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from dalle_jax.arrays import Array
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.train.optim import gradient_spikes, optimizers, schedules, weight_decay
from dalle_jax.train.optim.trainable import Trainable, TrainAll
from dalle_jax.train.task import Objective, Task

Arrays = dict[str, Any]

Node = TypeVar("Node", bound=nnx.Module | Mapping[str, nnx.Module])
"""A module, or modules by name."""


class State(NamedTuple):
    """The whole of it; ``average`` is empty without an Ema. ``others`` are the variables that are no parameters.

    ``gradient_norms`` are followed by objective (train/optim/gradient_spikes.py). ``skipped`` counts updates that
    were not
    finite, ``spiked`` those skipped for a spike, and ``skipped_in_a_row`` both, up to now with no good one between.
    ``schedule`` is what the learning rate's schedule remembers: nothing, or a few scalars.
    """

    step: Any
    params: Arrays
    others: Arrays
    average: Arrays
    optimizers: dict[str, Any]
    gradient_norms: gradient_spikes.Followed
    skipped: Any
    spiked: Any
    skipped_in_a_row: Any
    schedule: Any


@dataclass(frozen=True)
class ModuleSpec(Generic[Node]):
    """A module without its values: enough to rebuild it from arrays."""

    graph: Any
    paths: dict[str, tuple[Any, ...]]
    variables: dict[str, Any]

    @classmethod
    def of(cls, module: Node) -> "ModuleSpec[Node]":
        """The blueprint of a module, abstract (``nnx.eval_shape``) or not."""
        graph, state = nnx.split(module)
        flat = dict(nnx.to_flat_state(state))
        paths = {".".join(map(str, path)): path for path in flat}
        return cls(graph, paths, {name: flat[path] for name, path in paths.items()})

    def is_param(self, name: str) -> bool:
        """Whether gradients reach it; all the rest is carried along."""
        return isinstance(self.variables[name], nnx.Param)

    def matching(self, chosen: Any) -> tuple[str, ...]:
        """Return the names of the parameters that an nnx filter matches."""
        matches = nnx.filterlib.to_predicate(chosen)
        return tuple(
            name for name, path in self.paths.items() if self.is_param(name) and matches(path, self.variables[name])
        )

    def axes(self, name: str) -> tuple[str | None, ...] | None:
        """The logical axes that the variable names, if it names any."""
        return self.variables[name].get_metadata().get("axes")

    def merge(self, *arrays: Mapping[str, Any]) -> Node:
        """The module with these values; all of its variables must be among them."""
        values = {name: value for part in arrays for name, value in part.items()}
        flat = [(path, self._variable(name, values[name])) for name, path in self.paths.items()]
        return nnx.merge(self.graph, nnx.from_flat_state(flat))

    def split(self, module: Node) -> tuple[Arrays, Arrays]:
        """The values of a module of this blueprint: parameters and others. Random keys are given as their words."""
        params: Arrays = {}
        others: Arrays = {}
        for path, variable in nnx.to_flat_state(nnx.split(module)[1]):
            name = ".".join(map(str, path))
            value = variable.get_value()
            if _is_key(value):
                value = jax.random.key_data(value)
            (params if self.is_param(name) else others)[name] = value
        return params, others

    def changed(self, module: Node, others: Arrays) -> list[str]:
        """Return the names of the variables in ``others`` that a traced function has set since ``merge``."""
        now = self.split(module)[1]
        keys = {name for name, variable in self.variables.items() if _is_key(variable.get_value())}
        return [name for name, value in now.items() if name not in keys and value is not others[name]]

    def stored(self) -> Arrays:
        """Shapes and dtypes of what ``split`` gives."""
        values = {name: variable.get_value() for name, variable in self.variables.items()}
        return {
            name: jax.eval_shape(jax.random.key_data, value) if _is_key(value) else value
            for name, value in values.items()
        }

    def shardings(self, layout: Layout) -> Arrays:
        """How each variable is laid out."""
        found = {}
        for name, variable in self.variables.items():
            axes = self.axes(name)
            shape = variable.get_value().shape
            found[name] = layout.replicated if axes is None else layout.sharding(axes, shape, f"parameter {name}")
        return found

    def _variable(self, name: str, value: Any) -> Any:
        variable = self.variables[name]
        if _is_key(variable.get_value()):
            value = jax.random.wrap_key_data(value)
        return variable.replace(value)


@dataclass(frozen=True)
class StateSpec:
    """All that is known of a training state before it holds a number: how to build it, its shapes, where it lies."""

    blueprint: ModuleSpec
    transformations: dict[str, optax.GradientTransformation]
    trained: dict[str, tuple[str, ...]]
    abstract: State
    shardings: State
    build: Any

    def born(self, layout: Layout, seed: int) -> State:
        """The state of step 0. Every array is made where it lies, so no device ever holds the whole."""
        return layout.jit(self.build, out_shardings=self.shardings)(jax.random.key(seed))

    def told(self) -> str | None:
        """How much is trained, in a line; None where all is."""
        params = self.abstract.params
        trained = {name for names in self.trained.values() for name in names}
        if len(trained) == len(params):
            return None
        numbers = sum(params[name].size for name in trained), sum(one.size for one in params.values())
        return f"trains {len(trained)} of {len(params)} parameters: {numbers[0]:,} of {numbers[1]:,} numbers"

    def target(self) -> State:
        """Shapes, dtypes and shardings, for restoring."""
        return jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            self.abstract,
            self.shardings,
        )


def plan(
    task: Task,
    optimizer: optimizers.Optimizer,
    averaged: bool,
    layout: Layout,
    decayed: weight_decay.WeightDecayMask = weight_decay.DecayMatrices(),  # noqa: B008 (frozen)
    schedule: schedules.Schedule | None = None,
    chosen: Trainable = TrainAll(),  # noqa: B008 (frozen)
) -> StateSpec:
    """What the training state of a task will be; ``schedule`` matters where it remembers something.

    Raises UserError where ``chosen`` leaves an objective nothing to train.
    """
    blueprint = ModuleSpec.of(nnx.eval_shape(lambda: task.init(nnx.Rngs(0))))
    transformation = optimizer.transformation(_parameters(blueprint, decayed))
    names = chosen.chosen({name: one for name, one in blueprint.variables.items() if blueprint.is_param(name)})
    trained = {objective.name: _trained(blueprint, objective, names) for objective in task.objectives()}
    transformations = dict.fromkeys(trained, transformation)

    def build(key: Array) -> State:
        params, others = blueprint.split(task.init(nnx.Rngs(key)))
        # A copy each: an average that shared its buffers with the parameters could not be donated beside them.
        average = jax.tree.map(jnp.copy, params) if averaged else {}
        zero = jnp.zeros((), jnp.int32)
        states = {name: transformation.init({path: params[path] for path in paths}) for name, paths in trained.items()}
        remembered = () if schedule is None else schedules.first_state(schedule)
        norms = gradient_spikes.Followed.none(trained)
        return State(zero, params, others, average, states, norms, zero, zero, zero, remembered)

    abstract = jax.eval_shape(build, jax.random.key(0))
    shardings = _shardings(blueprint, transformation, trained, abstract, layout)
    return StateSpec(blueprint, transformations, trained, abstract, shardings, build)


def _parameters(blueprint: ModuleSpec, decayed: weight_decay.WeightDecayMask) -> weight_decay.Parameters:
    """What the optimizer may know of each parameter."""
    shaped = {
        name: weight_decay.Shaped(blueprint.axes(name), variable.get_value().shape)
        for name, variable in blueprint.variables.items()
        if blueprint.is_param(name)
    }
    reached = decayed.reached(shaped)
    return {name: weight_decay.Parameter(tuple(one.axes or ()), name in reached) for name, one in shaped.items()}


def _shardings(
    blueprint: ModuleSpec,
    transformation: optax.GradientTransformation,
    trained: Mapping[str, tuple[str, ...]],
    abstract: State,
    layout: Layout,
) -> State:
    lies = blueprint.shardings(layout)
    whole = layout.replicated
    states = {}
    for name, paths in trained.items():
        params = {path: abstract.params[path] for path in paths}
        states[name] = optimizers.state_shardings(transformation, params, {path: lies[path] for path in paths}, whole)
    return State(
        step=whole,
        params={name: lies[name] for name in abstract.params},
        others={name: lies[name] for name in abstract.others},
        average={name: lies[name] for name in abstract.average},
        optimizers=states,
        gradient_norms=jax.tree.map(lambda _: whole, abstract.gradient_norms),
        skipped=whole,
        spiked=whole,
        skipped_in_a_row=whole,
        schedule=jax.tree.map(lambda _: whole, abstract.schedule),
    )


def _trained(blueprint: ModuleSpec, objective: Objective, among: set[str]) -> tuple[str, ...]:
    names = blueprint.matching(objective.trains)
    if not names:
        raise ValueError(f"objective {objective.name!r}: its filter {objective.trains!r} matches no parameter")
    kept = tuple(name for name in names if name in among)
    if not kept:
        raise UserError(
            f"trainer.trained: expected some of the {len(names)} parameters of the objective {objective.name!r}, got "
            f"none of them; they are {', '.join(names[:4])}{', ...' if len(names) > 4 else ''}: choose among them with "
            "trainer.trained = @TrainNamed, or leave trainer.trained out to train all"
        )
    return kept


def _is_key(value: Any) -> bool:
    return jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
