"""Checkpoints: the only file that knows Orbax. A checkpoint is whole, or it is not there, or it is found to be damaged.

Each holds the parts of the state side by side (params, average, ..., so that one can be read without the rest) and a
``Meta``: what was trained on what, with the small files that make the weights usable. That is all that a run is made
of. The data position is the step, since ``Batches.batch`` is a pure function of it; the randomness of a step is
``fold_in(seed, step)`` with the seed in ``Meta``; and random keys that a module carries along are among the ``others``.
"""

import base64
import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
from flax import nnx
from orbax.checkpoint import v1 as ocp

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints import checksums, recovery
from dalle_jax.train.checkpoints.recovery import whole_steps
from dalle_jax.train.checkpoints.s3_staging import S3Staging
from dalle_jax.train.checkpoints.state_parts import compare, from_parts, to_parts
from dalle_jax.train.state import ModuleSpec, State

FOLDER = "checkpoints"
ROOM_BYTES = 2_000_000
UNFINISHED = ".orbax-checkpoint-tmp"
"""What Orbax adds to the name of a checkpoint that it has not committed."""


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
    ``before_commit`` is called in the thread that saves when all is written but the checkpoint does not yet count.
    """

    def __init__(
        self,
        out: Place,
        keep: int,
        keep_every: int | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ):
        # Orbax logs a failed save with its whole traceback; ours is told as one line.
        logging.getLogger("absl").setLevel(logging.CRITICAL)
        self.folder = storage.absolute(out / FOLDER)
        self._mirror = mirror_of(self.folder)
        self._keep, self._keep_every, self._before_commit = keep, keep_every, before_commit
        self._saving: tuple[int, dict[str, Any]] = (0, {})
        here = self.folder if self._mirror is None else self._mirror.local
        try:
            if not storage.is_remote(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            damage = recovery.damage_found_together if self._mirror is None else self._mirror.damage
            _, damaged = recovery.newest_whole(self.folder, damage)
            for step, reason in damaged.items():
                recovery.set_aside(self.folder, step, reason)
            self._orbax = ocp.training.Checkpointer(
                here,
                context=self._committing(here),
                preservation_policy=preservation(keep, keep_every) if self._mirror is None else preservation(1, None),
                cleanup_tmp_directories=True,
            )
        except BaseException as error:
            if self._mirror is not None:
                self._mirror.close()
            if isinstance(error, OSError):
                raise UserError(f"cannot keep checkpoints in {self.folder}: {error.strerror or error}") from error
            raise

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
        self._saving = (step, meta.to_json())
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
            if self._mirror is not None:
                self._mirror.close()

    def restore(self, step: int, target: State) -> State:
        """The state of a step, laid out as ``target`` says; UserError names what differs from another model's."""
        parts = to_parts(target)
        compare(f"{self.folder / str(step)}", self._orbax.checkpointables_metadata(step).metadata, parts)
        return from_parts(self._orbax.load_checkpointables(step, parts), target)

    def _committing(self, here: Place) -> ocp.Context:
        """What Orbax does in the first process when every process has written, just before it commits."""

        def commit() -> None:  # a function, since Orbax copies its options, and with a method all of its object
            step, custom = self._saving
            unfinished = here / f"{step}{UNFINISHED}"
            written = unfinished if unfinished.exists() else here / str(step)  # as it is on gs://
            checksums.await_step(written, custom)
            checksums.seal(written)
            self._before_commit()
            if self._mirror is not None:
                self._mirror.store(step, written)
                self._mirror.retain(whole_steps(self.folder), self._keep, self._keep_every)

        context = ocp.Context()
        context.asynchronous.post_finalization_callback = commit
        # Created in the background, a folder that cannot be created leaves threads that wait for it for 20 minutes.
        context.asynchronous.create_directories_asynchronously = False
        return context

    def _check_room(self, step: int, state: State) -> None:
        """A disk that is too small is better told before than by half a checkpoint."""
        if storage.is_remote(self._orbax.directory):
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + ROOM_BYTES
        free = shutil.disk_usage(self._orbax.directory).free
        if free < size:
            reason = f"it needs {size / 1e6:.0f} MB and {free / 1e6:.0f} MB are free"
            raise self._failed(step, OSError(reason))

    def _failed(self, step: int | None, error: Exception) -> UserError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        whole = ", ".join(str(found) for found in whole_steps(self.folder)) or "none"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return UserError(f"could not save {what} in {self.folder} ({reason[:250]}); whole ones there: {whole}")


def mirror_of(folder: Place) -> S3Staging | None:
    """What stands between Orbax and a URL to which it cannot write; UserError where there are several processes."""
    if not os.fspath(folder).startswith("s3://"):
        return None
    if jax.process_count() > 1:
        raise UserError(
            f"{folder}: Orbax cannot write to s3://, and what is done about it needs all of a checkpoint on one "
            f"machine, but this run has {jax.process_count()} processes; use gs:// or a folder that all of them share"
        )
    return S3Staging(folder)


def preservation(keep: int, keep_every: int | None) -> Any:
    """Orbax's rule for what stays: the newest ``keep``, and those whose step ``keep_every`` divides."""
    policies = ocp.training.preservation_policies
    newest = policies.LatestN(keep)
    return newest if keep_every is None else policies.AnyPreservationPolicy([newest, policies.EveryNSteps(keep_every)])


def load_params(
    folder: str | Place,
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
    with contextlib.ExitStack() as opened:
        path = _readable(storage.absolute(storage.place(folder)) / FOLDER, which, step, opened)
        _load(path, module, which, layout, prefix)
    return int(path.name)


def _load(path: Place, module: nnx.Module, which: str, layout: Layout | None, prefix: str) -> None:
    stored = ocp.checkpointables_metadata(path).metadata
    blueprint = ModuleSpec.of(module)
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


def _readable(checkpoints: Place, which: str, step: int | None, opened: contextlib.ExitStack) -> Place:
    """The checkpoint to read: of ``step``, or the newest whose weights are as they were written.

    Behind a URL that Orbax cannot read it is a copy, which goes when ``opened`` closes.
    """
    steps = whole_steps(checkpoints)
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise UserError(
            f"{checkpoints.parent}: expected {wanted}, found {steps or 'none'}; train it first, or name another folder"
        )

    mirror = mirror_of(checkpoints)
    if mirror is not None:
        opened.callback(mirror.close)

    def damage(path: Place) -> str | None:
        parts = (_source(path, which), "others")
        look = checksums.damage if mirror is None else mirror.damage
        return look(path, lambda name: name.split("/")[0] in parts or "/d/" not in name)

    if step is not None:
        reason = damage(checkpoints / str(step))
        if reason is not None:
            raise UserError(f"the checkpoint of step {step} in {checkpoints} is damaged ({reason}); there are {steps}")
        return (checkpoints if mirror is None else mirror.local) / str(step)
    newest, damaged = recovery.newest_whole(checkpoints, damage)
    for bad, reason in damaged.items():
        recovery.warn(f"the checkpoint of step {bad} in {checkpoints} is damaged ({reason}): using that of {newest}")
    return (checkpoints if mirror is None else mirror.local) / str(newest)


def _source(path: Place, which: str) -> str:
    """The part that holds the weights wanted."""
    return "average" if which == "average" and (path / "average").is_dir() else "params"


def _structs(blueprint: ModuleSpec, layout: Layout | None) -> dict[str, jax.ShapeDtypeStruct]:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = blueprint.shardings(layout) if layout is not None else dict.fromkeys(blueprint.paths, first)
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in blueprint.stored().items()
    }
