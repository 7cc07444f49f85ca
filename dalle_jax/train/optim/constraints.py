"""Projected gradient steps: parameters are moved back to their allowed values after each update."""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from dalle_jax.arrays import Array
from dalle_jax.train.state import Arrays, ModuleSpec
from dalle_jax.train.task import Objective

Projections: TypeAlias = tuple[tuple[str, Callable[[Array], Array]], ...]
"""Names of parameters with their projections, in the order in which they are applied."""


def projections(objective: Objective, module_spec: ModuleSpec, trained: Sequence[str]) -> Projections:
    """Resolve the constraints of an objective to the parameters that are trained.

    Raise ValueError if a constraint matches no parameter of the model.
    """
    found = []
    for constraint in objective.constraints:
        names = module_spec.matching(constraint.on)
        if not names:
            raise ValueError(
                f"objective {objective.name!r}: expected a constraint on some parameter, its filter {constraint.on!r} "
                "matches none"
            )
        found += [(name, constraint.project) for name in names if name in trained]
    return tuple(found)


def project(projections: Projections, params: Mapping[str, Array]) -> Arrays:
    """Apply projections to updated parameters; parameters without a projection keep their values."""
    allowed = dict(params)
    for name, projection in projections:
        allowed[name] = projection(allowed[name])
    return allowed
