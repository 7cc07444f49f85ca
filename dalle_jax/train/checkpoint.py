"""Checkpoints: the only file that knows Orbax. A checkpoint is whole, or it is not there, or it is found to be damaged.

Each holds the parts of the state side by side (params, average, ..., so that one can be read without the rest) and a
``Meta``: what was trained on what, with the small files that make the weights usable. That is all that a run is made
of. The data position is the step, since ``Batches.batch`` is a pure function of it; the randomness of a step is
``fold_in(seed, step)`` with the seed in ``Meta``; and random keys that a module carries along are among the ``others``.
"""

import base64
import contextlib
import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from flax import nnx
from orbax.checkpoint import v1 as ocp

from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.train import checksums, recovery
from dalle_jax.train.recovery import whole_steps
from dalle_jax.train.state import Blueprint, State

FOLDER = "checkpoints"
ROOM_BYTES = 2_000_000
UNFINISHED = ".orbax-checkpoint-tmp"
"""What Orbax adds to the name of a checkpoint that it has not committed."""

COUNTERS = ("step", "skipped", "skipped_in_a_row")


@dataclass(frozen=True)
class Meta:
    """What goes with the numbers: the resolved config, the data's fingerprint, the seed, and the model's files."""

    config: str
    fingerprint: str
    seed: int
    files: dict[str, bytes]

    def to_json(self) -> dict[str, Any]:
        """For Orbax's custom metadata."""
        files = {name: base64.b64encode(content).decode() for name, content in self.files.items()}
        return {"config": self.config, "fingerprint": self.fingerprint, "seed": self.seed, "files": files}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Meta":
        """The inverse."""
        files = {name: base64.b64decode(content) for name, content in value["files"].items()}
        return cls(value["config"], value["fingerprint"], value["seed"], files)


class Checkpoints:
    """The checkpoints of one run folder, for its trainer.

    The newest ``keep`` of them stay, and every one whose step ``keep_every`` divides. To open them is to look whether
    the newest is as it was written: one that is not is set aside, with a warning, until there is one to go on from.
    """

    def __init__(self, out: Path, keep: int, keep_every: int | None = None):
        # Orbax logs a failed save with its whole traceback; ours is told as one line.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = (out / FOLDER).absolute()
        self._saving = 0
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            _, damaged = recovery.newest_whole(self.folder, recovery.damage_found_together)
            for step, reason in damaged.items():
                recovery.set_aside(self.folder, step, reason)
            self._orbax = ocp.training.Checkpointer(
                self.folder,
                context=self._sealing(),
                preservation_policy=preservation(keep, keep_every),
                cleanup_tmp_directories=True,
            )
        except OSError as error:
            raise UserError(f"cannot keep checkpoints in {self.folder}: {error.strerror or error}") from error

    def newest(self) -> int | None:
        """The step of the newest checkpoint, which is whole."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def meta(self, step: int) -> Meta:
        """What goes with the checkpoint of a step."""
        return Meta.from_json(self._orbax.metadata(step).custom_metadata)

    def save(self, step: int, state: State, meta: Meta) -> None:
        """Copies the state and writes it in the background; waits first for the save before, if it is still on."""
        self.wait()
        self._check_room(step, state)
        self._saving = step
        try:
            self._orbax.save_checkpointables_async(step, to_parts(state), force=True, custom_metadata=meta.to_json())
        except Exception as error:
            raise self._failed(step, error) from error

    def wait(self) -> None:
        """Until everything is on disk."""
        try:
            self._orbax.wait()
        except Exception as error:
            raise self._failed(None, error) from error

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # what failed has been raised by wait
                self._orbax.close()

    def restore(self, step: int, target: State) -> State:
        """The state of a step, laid out as ``target`` says; UserError names what differs from another model's."""
        parts = to_parts(target)
        compare(f"{self.folder / str(step)}", self._orbax.checkpointables_metadata(step).metadata, parts)
        return from_parts(self._orbax.load_checkpointables(step, parts), target)

    def _sealing(self) -> ocp.Context:
        """Has Orbax call ``checksums.seal`` when every process has written, just before it commits."""

        def seal() -> None:  # a function, since Orbax copies its options, and with a method all of its object
            path = self.folder / f"{self._saving}{UNFINISHED}"
            checksums.seal(path if path.is_dir() else self.folder / str(self._saving))

        context = ocp.Context()
        context.asynchronous.post_finalization_callback = seal
        return context

    def _check_room(self, step: int, state: State) -> None:
        """A disk that is too small is better told before than by half a checkpoint."""
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + ROOM_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < size:
            reason = f"it needs {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free"
            raise self._failed(step, OSError(reason))

    def _failed(self, step: int | None, error: Exception) -> UserError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        whole = ", ".join(str(found) for found in whole_steps(self.folder)) or "none"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return UserError(f"could not save {what} in {self.folder} ({reason[:250]}); whole ones there: {whole}")


def preservation(keep: int, keep_every: int | None) -> Any:
    """Orbax's rule for what stays: the newest ``keep``, and those whose step ``keep_every`` divides."""
    policies = ocp.training.preservation_policies
    newest = policies.LatestN(keep)
    return newest if keep_every is None else policies.AnyPreservationPolicy([newest, policies.EveryNSteps(keep_every)])


def to_parts(state: State) -> dict[str, Any]:
    """The state as named flat dictionaries, without the empty ones."""
    parts = {
        "params": state.params,
        "others": state.others,
        "average": state.average,
        "counters": {name: getattr(state, name) for name in COUNTERS},
        "optimizers": _named_leaves(state.optimizers),
    }
    return {name: part for name, part in parts.items() if part}


def from_parts(parts: Mapping[str, Any], target: State) -> State:
    """The inverse of ``to_parts``."""
    names = list(_named_leaves(target.optimizers))
    leaves = parts.get("optimizers", {})
    optimizers = jax.tree.unflatten(jax.tree.structure(target.optimizers), [leaves[name] for name in names])
    counters = parts["counters"]
    return State(
        step=counters["step"],
        params=parts.get("params", {}),
        others=parts.get("others", {}),
        average=parts.get("average", {}),
        optimizers=optimizers,
        skipped=counters["skipped"],
        skipped_in_a_row=counters["skipped_in_a_row"],
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


def load_params(
    folder: Path,
    module: nnx.Module,
    which: Literal["average", "params"] = "average",
    step: int | None = None,
    layout: Layout | None = None,
    prefix: str = "",
) -> int:
    """Fills a module (abstract, from ``nnx.eval_shape``, or not) with trained weights; returns their step.

    Only the weights are read, not the optimizer's state. ``which="average"`` takes the parameters themselves where the
    run kept no average. ``prefix`` (such as "generator.") is where the module sits in the one that was trained. Without
    a layout everything goes to the first device. A damaged checkpoint is passed over with a warning, and left as it is.
    """
    path = _readable(Path(folder).absolute() / FOLDER, which, step)
    stored = ocp.checkpointables_metadata(path).metadata
    blueprint = Blueprint.of(module)
    source = _source(path, which)
    target: dict[str, dict[str, Any]] = {source: {}, "others": {}}
    for name, struct in _structs(blueprint, layout).items():
        target[source if blueprint.is_param(name) else "others"][prefix + name] = struct
    present = {
        part: {name: leaf for name, leaf in stored.get(part, {}).items() if name.startswith(prefix)} for part in target
    }
    compare(str(path), present, target)
    wanted_parts = {
        part: {name: want.get(name, ocp.PLACEHOLDER) for name in stored[part]} for part, want in target.items() if want
    }
    loaded = ocp.load_checkpointables(path, wanted_parts)
    values = {name.removeprefix(prefix): leaf for part in loaded.values() for name, leaf in part.items()}
    nnx.update(module, nnx.state(blueprint.merge({name: values[name] for name in blueprint.paths})))
    return int(path.name)


def _readable(checkpoints: Path, which: str, step: int | None) -> Path:
    """The checkpoint to read: of ``step``, or the newest whose weights are as they were written."""
    steps = whole_steps(checkpoints)
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise UserError(
            f"{checkpoints.parent}: expected {wanted}, found {steps or 'none'}; train it first, or name another folder"
        )

    def damage(path: Path) -> str | None:
        parts = (_source(path, which), "others")
        return checksums.damage(path, lambda name: name.split("/")[0] in parts or "/d/" not in name)

    if step is not None:
        reason = damage(checkpoints / str(step))
        if reason is not None:
            raise UserError(f"the checkpoint of step {step} in {checkpoints} is damaged ({reason}); there are {steps}")
        return checkpoints / str(step)
    newest, damaged = recovery.newest_whole(checkpoints, damage)
    for bad, reason in damaged.items():
        recovery.warn(f"the checkpoint of step {bad} in {checkpoints} is damaged ({reason}): using that of {newest}")
    return checkpoints / str(newest)


def _source(path: Path, which: str) -> str:
    """The part that holds the weights wanted."""
    return "average" if which == "average" and (path / "average").is_dir() else "params"


def _structs(blueprint: Blueprint, layout: Layout | None) -> dict[str, jax.ShapeDtypeStruct]:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = blueprint.shardings(layout) if layout is not None else dict.fromkeys(blueprint.paths, first)
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in blueprint.stored().items()
    }


def _named_leaves(tree: Any) -> dict[str, Any]:
    return {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def _signature(leaf: Any) -> str:
    return f"{np.dtype(leaf.dtype).name}{list(leaf.shape)}"
