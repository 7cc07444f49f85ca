"""The parts of a training state as checkpoints store them, and the check that two states belong to the same model."""

from collections.abc import Mapping
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np

from dalle_jax.arrays import PyTree
from dalle_jax.config.errors import UserError
from dalle_jax.train.optim.gradient_spikes import RunningNorms
from dalle_jax.train.state import Counted, Learned, Remembered, State

OLD_PARTS = {"others": "non_params", "average": "ema_params"}
"""Former names of parts, with the present names."""


@runtime_checkable
class ArrayLeaf(Protocol):
    """An array, its shape and dtype, or Orbax's metadata of it."""

    @property
    def shape(self) -> tuple[int, ...]:
        """The sizes of the dimensions."""

    @property
    def dtype(self) -> np.dtype:
        """The data type."""


Parts: TypeAlias = dict[str, dict[str, PyTree]]
"""Flat dictionaries of leaves (arrays, or their shapes and dtypes) by part and name."""


def to_parts(state: State) -> Parts:
    """Return a state as flat dictionaries by the name of the part, without empty dictionaries."""
    parts = {
        "params": state.learned.params,
        "non_params": state.learned.non_params,
        "ema_params": state.learned.ema_params,
        "gradient_norms": state.remembered.gradient_norms.averages,
        "gradient_counts": state.remembered.gradient_norms.counts,
        "counters": state.counted._asdict(),
        "optimizers": _named_leaves(state.learned.optimizers),
        "schedule": _named_leaves(state.remembered.schedule),
    }
    return {name: part for name, part in parts.items() if part}


def from_parts(parts: Parts, target: State) -> State:
    """Invert ``to_parts``; ``target`` gives the tree structures of the optimizers and the schedule."""
    return State(
        Learned(
            parts.get("params", {}),
            parts.get("non_params", {}),
            parts.get("ema_params", {}),
            _from_leaves(parts.get("optimizers", {}), target.learned.optimizers),
        ),
        Counted(**parts["counters"]),
        Remembered(
            RunningNorms(parts.get("gradient_norms", {}), parts.get("gradient_counts", {})),
            _from_leaves(parts.get("schedule", {}), target.remembered.schedule),
        ),
    )


def compare(
    where: str, stored: Mapping[str, Mapping[str, ArrayLeaf]], wanted: Mapping[str, Mapping[str, ArrayLeaf]]
) -> None:
    """Raise UserError with all differences in names, shapes and dtypes; Orbax silently casts and reshapes some."""
    refuse_old_parts(where, stored)
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
        raise UserError(
            f"{where} is of a different model or optimizer: {shown}. Undo the change, or give a different --out"
        )


def refuse_old_parts(where: str, stored: Mapping[str, object]) -> None:
    """Raise UserError for a checkpoint of an earlier version, whose parts have different names."""
    for old, new in OLD_PARTS.items():
        if old in stored:
            raise UserError(
                f"{where}: expected a checkpoint with the part {new!r}, got one of an earlier version, which calls it "
                f"{old!r}. Train or import the model again, into a different folder"
            )


def _named_leaves(tree: PyTree) -> dict[str, PyTree]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _from_leaves(leaves: Mapping[str, PyTree], like: PyTree) -> PyTree:
    return jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in _named_leaves(like)])


def _signature(leaf: ArrayLeaf) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
