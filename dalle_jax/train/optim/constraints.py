"""Projected gradient steps: parameters are moved back to their allowed values after each update."""

from collections.abc import Callable, Mapping, Sequence

from dalle_jax.arrays import Array
from dalle_jax.train.state import Arrays, ModuleSpec
from dalle_jax.train.task import Objective

Projections = tuple[tuple[str, Callable[[Array], Array]], ...]
"""Names of parameters, each with a function that moves it back, in the order in which they are applied."""


def projections(objective: Objective, blueprint: ModuleSpec, trained: Sequence[str]) -> Projections:
    """Resolve the constraints of an objective to the parameters that are trained.

    Raises ValueError for a constraint that matches no parameter of the model.
    """
    found = []
    for constraint in objective.constraints:
        names = blueprint.matching(constraint.on)
        if not names:
            raise ValueError(
                f"objective {objective.name!r}: expected a constraint on some parameter, its filter {constraint.on!r} "
                "matches none"
            )
        found += [(name, constraint.project) for name in names if name in trained]
    return tuple(found)


def project(projections: Projections, params: Mapping[str, Array]) -> Arrays:
    """Apply projections to updated parameters; the parameters that none names stay as they are."""
    allowed = dict(params)
    for name, projection in projections:
        allowed[name] = projection(allowed[name])
    return allowed
