"""The parts of a training state as a checkpoint holds them, and what it takes for two of them to be of one model."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.train.optim.gradient_spikes import Followed
from dalle_jax.train.state import State

COUNTERS = ("step", "skipped", "spiked", "skipped_in_a_row")


def to_parts(state: State) -> dict[str, Any]:
    """The state as named flat dictionaries, without the empty ones."""
    parts = {
        "params": state.params,
        "others": state.others,
        "average": state.average,
        "gradient_norms": state.gradient_norms.averages,
        "gradient_counts": state.gradient_norms.counts,
        "counters": {name: getattr(state, name) for name in COUNTERS},
        "optimizers": _named_leaves(state.optimizers),
        "schedule": _named_leaves(state.schedule),
    }
    return {name: part for name, part in parts.items() if part}


def from_parts(parts: Mapping[str, Any], target: State) -> State:
    """The inverse of ``to_parts``."""
    counters = parts["counters"]
    return State(
        step=counters["step"],
        params=parts.get("params", {}),
        others=parts.get("others", {}),
        average=parts.get("average", {}),
        optimizers=_from_leaves(parts.get("optimizers", {}), target.optimizers),
        gradient_norms=Followed(parts["gradient_norms"], parts["gradient_counts"]),
        skipped=counters["skipped"],
        spiked=counters["spiked"],
        skipped_in_a_row=counters["skipped_in_a_row"],
        schedule=_from_leaves(parts.get("schedule", {}), target.schedule),
    )


def compare(where: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError with all that differs in names, shapes and dtypes; Orbax casts and reshapes some in silence."""
    problems = []
    for part in sorted(stored.keys() | wanted.keys()):
        have, want = stored.get(part, {}), wanted.get(part, {})
        problems += [f"{part} {name} is not in the checkpoint" for name in sorted(want.keys() - have.keys())]
        problems += [f"{part} {name} is not in this run" for name in sorted(have.keys() - want.keys())]
        for name in sorted(want.keys() & have.keys()):
            old, new = _signature(have[name]), _signature(want[name])
            if old != new:
                problems.append(f"{part} {name} is {old} in the checkpoint and {new} in this run")
    if problems:
        shown = "; ".join(problems[:5]) + (f"; and {len(problems) - 5} more" if len(problems) > 5 else "")
        raise UserError(f"{where} is of another model or optimizer: {shown}. Undo the change, or give another --out")


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _from_leaves(leaves: Mapping[str, Any], like: Any) -> Any:
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in _named_leaves(like)])


def _signature(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
