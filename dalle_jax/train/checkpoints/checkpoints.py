"""Checkpoints, and the only file that uses Orbax. A checkpoint is complete, absent, or detected as damaged.

A checkpoint holds the parts of the state separately (params, ema_params, ...), so that a part can be read without the
others. It also holds a ``Meta`` with the config and the model's files. Nothing else is needed to resume: the data
position is the step, since ``Batches.batch`` is a pure function of it. The randomness of a step is ``fold_in(seed,
step)`` with the seed in ``Meta``. Random keys of a module are part of ``non_params``.
"""

import base64
import contextlib
import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias, TypedDict

import jax
import numpy as np
from flax import nnx
from orbax.checkpoint import v1 as ocp

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints import checksums, recovery
from dalle_jax.train.checkpoints.recovery import whole_steps
from dalle_jax.train.checkpoints.s3_staging import S3Staging
from dalle_jax.train.checkpoints.state_parts import Parts, compare, from_parts, refuse_old_parts, to_parts
from dalle_jax.train.checkpoints.stored_arrays import check_arrays, check_parts, listed_arrays
from dalle_jax.train.state import ModuleSpec, State

FOLDER = "checkpoints"
ROOM_BYTES = 2_000_000
UNFINISHED = ".orbax-checkpoint-tmp"
"""The suffix that Orbax gives to a checkpoint which it has not committed."""

Weights: TypeAlias = Literal["ema_params", "params"]


class MetaJson(TypedDict):
    """``Meta`` as JSON, with the files in base64."""

    config: str
    fingerprint: str
    seed: int
    files: dict[str, str]


@dataclass(frozen=True)
class Meta:
    """The metadata of a checkpoint: the resolved config, the data's fingerprint, the seed, and the model's files."""

    config: str
    fingerprint: str
    seed: int
    files: dict[str, bytes]

    def to_json(self) -> MetaJson:
        """Return the JSON for Orbax's custom metadata."""
        files = {name: base64.b64encode(content).decode() for name, content in self.files.items()}
        return {"config": self.config, "fingerprint": self.fingerprint, "seed": self.seed, "files": files}

    @classmethod
    def from_json(cls, value: MetaJson) -> "Meta":
        """Invert ``to_json``. Raise ValueError for other content."""
        texts = isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("config", "fingerprint"))
        if not texts or not isinstance(value.get("seed"), int) or not isinstance(value.get("files"), dict):
            raise ValueError("expected config, fingerprint, seed and files in the metadata")
        files = {name: base64.b64decode(content) for name, content in value["files"].items()}
        return cls(value["config"], value["fingerprint"], value["seed"], files)


class Checkpoints:
    """The checkpoints of a run folder, opened for training.

    The newest ``keep`` checkpoints are kept, and all whose step is a multiple of ``keep_every``. When the folder is
    opened, the newest checkpoint is verified. If it is damaged, it is renamed with a warning and the next older one is
    verified. ``before_commit`` is called in the saving thread when all files are written, before the checkpoint is
    committed.
    """

    def __init__(
        self,
        out: Place,
        keep: int,
        keep_every: int | None = None,
        before_commit: Callable[[], None] = lambda: None,
    ):
        self.folder = storage.absolute(out / FOLDER)
        self._staging = staging_of(self.folder)
        self._keep, self._keep_every, self._before_commit = keep, keep_every, before_commit
        self._saving: tuple[int, MetaJson] | None = None
        logging.getLogger("absl").addFilter(is_not_orbax)
        here = self.folder if self._staging is None else self._staging.local
        try:
            if not storage.is_remote(self.folder):
                self.folder.mkdir(parents=True, exist_ok=True)
            damage = recovery.damage_found_together if self._staging is None else self._staging.damage
            _, damaged = recovery.newest_whole(self.folder, damage)
            for step, reason in damaged.items():
                recovery.set_aside(self.folder, step, reason)
            self._orbax = ocp.training.Checkpointer(
                here,
                context=self._committing(here),
                preservation_policy=preservation(keep, keep_every) if self._staging is None else preservation(1, None),
                cleanup_tmp_directories=True,
            )
        except BaseException as error:
            logging.getLogger("absl").removeFilter(is_not_orbax)
            if self._staging is not None:
                self._staging.close()
            if isinstance(error, OSError):
                raise UserError(f"cannot keep checkpoints in {self.folder}: {error.strerror or error}") from error
            raise

    def newest(self) -> int | None:
        """Return the step of the newest checkpoint, or None if there is none."""
        latest = self._orbax.latest
        return None if latest is None else latest.step

    def meta(self, step: int) -> Meta:
        """Return the metadata of the checkpoint of a step."""
        with readable(self.folder / str(step)):
            return Meta.from_json(self._orbax.metadata(step).custom_metadata)

    def save(self, step: int, state: State, meta: Meta) -> None:
        """Copy the state and write the copy in the background. Wait for the previous save first."""
        self.wait()
        self._check_room(step, state)
        self._saving = (step, meta.to_json())
        try:
            self._orbax.save_checkpointables_async(
                step, to_parts(state), force=True, custom_metadata=dict(meta.to_json())
            )
        except Exception as error:
            raise self._failed(step, error) from error

    def wait(self) -> None:
        """Wait until the last save is completely on disk."""
        try:
            self._orbax.wait()
        except Exception as error:
            raise self._failed(None, error) from error

    def close(self) -> None:
        """Wait for the last save and close Orbax."""
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # wait has raised the error already
                self._orbax.close()
            logging.getLogger("absl").removeFilter(is_not_orbax)
            if self._staging is not None:
                self._staging.close()

    def restore(self, step: int, target: State) -> State:
        """Return the saved state of a step, sharded as ``target``.

        Raise UserError if it belongs to a different model.
        """
        parts = to_parts(target)
        path = self.folder / str(step)
        check_arrays((self.folder if self._staging is None else self._staging.local) / str(step), parts)
        with readable(path):
            stored = self._orbax.checkpointables_metadata(step).metadata
            stored = check_parts(stored, stored)
        compare(f"{path}", stored, parts)
        with readable(path):
            loaded = self._orbax.load_checkpointables(step, parts)
        return from_parts(loaded, target)

    def _committing(self, here: Place) -> ocp.Context:
        """Return Orbax options whose callback in the first process writes the checksums just before a commit."""

        def commit() -> None:  # not a method: Orbax deep-copies its options, and would copy this object
            if self._saving is None:
                raise RuntimeError("expected Orbax to commit a checkpoint that was saved here, got a different one")
            step, custom = self._saving
            unfinished = here / f"{step}{UNFINISHED}"
            written = unfinished if unfinished.exists() else here / str(step)  # gs:// has no temporary folder
            checksums.await_step(written, custom)
            checksums.seal(written, step)
            self._before_commit()
            if self._staging is not None:
                self._staging.store(step, written)
                self._staging.retain(whole_steps(self.folder), self._keep, self._keep_every)

        context = ocp.Context()
        context.asynchronous.post_finalization_callback = commit
        # Created in the background, a folder that cannot be created would leave threads waiting for 20 minutes.
        context.asynchronous.create_directories_asynchronously = False
        return context

    def _check_room(self, step: int, state: State) -> None:
        """Raise UserError if the disk is too small, before any part of the checkpoint is written."""
        if storage.is_remote(self._orbax.directory):
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + ROOM_BYTES
        free = shutil.disk_usage(self._orbax.directory).free
        if free < size:
            reason = f"it needs {size / 1e6:.0f} MB, and the disk has {free / 1e6:.0f} MB free"
            raise self._failed(step, OSError(reason))

    def _failed(self, step: int | None, error: Exception) -> UserError:
        what = "a checkpoint" if step is None else f"the checkpoint of step {step}"
        whole = ", ".join(str(found) for found in whole_steps(self.folder)) or "none"
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return UserError(
            f"could not save {what} in {self.folder} ({reason[:250]}); complete checkpoints there: {whole}"
        )


@contextlib.contextmanager
def readable(path: Place) -> Iterator[None]:
    """Convert errors of Orbax, which raises many kinds for a checkpoint that is not what it wrote, to ``UserError``.

    Errors of the operating system, of memory and of devices stay as they are.
    """
    try:
        yield
    except (UserError, OSError, MemoryError, jax.errors.JaxRuntimeError):
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path}: expected a checkpoint that Orbax can read, got a damaged one ({reason})") from error


def is_not_orbax(record: logging.LogRecord) -> bool:
    """Return False for log records of Orbax.

    Orbax logs the traceback of a failed save, which the trainer reports in one line.
    """
    return f"{os.sep}orbax{os.sep}" not in record.pathname


def staging_of(folder: Place) -> S3Staging | None:
    """Return the local staging of an s3:// URL, to which Orbax cannot write. Return None for other folders.

    Raise UserError if there are several processes.
    """
    if not os.fspath(folder).startswith("s3://"):
        return None
    if jax.process_count() > 1:
        raise UserError(
            f"{folder}: expected one process for checkpoints on s3://, which are staged on one machine, got "
            f"{jax.process_count()} processes; use gs:// or a folder that all processes share"
        )
    return S3Staging(folder)


def preservation(keep: int, keep_every: int | None) -> ocp.training.preservation_policies.PreservationPolicy:
    """Return the policy by which Orbax keeps checkpoints: the newest ``keep``, and all multiples of ``keep_every``."""
    policies = ocp.training.preservation_policies
    newest = policies.LatestN(keep)
    return newest if keep_every is None else policies.AnyPreservationPolicy([newest, policies.EveryNSteps(keep_every)])


def load_params(
    folder: str | Place,
    module: nnx.Module,
    weights: Weights = "ema_params",
    step: int | None = None,
    layout: Layout | None = None,
    prefix: str = "",
    dtypes: Mapping[str, np.dtype] | None = None,
) -> int:
    """Load trained weights into a module, which may be abstract (``nnx.eval_shape``), and return their step.

    The optimizer's state is not read. ``weights="ema_params"`` falls back to the parameters if the run had no EMA.
    ``prefix`` (such as "generator.") is the path of the module within the trained module. Without a layout all weights
    are loaded to the first device; with one, each device gets only its shards. ``dtypes`` are those of weights, by
    name, that are cast when they are read. A damaged checkpoint is skipped with a warning.
    """
    with contextlib.ExitStack() as opened:
        path = _readable(storage.absolute(storage.place(folder)) / FOLDER, weights, step, opened)
        _load(path, module, weights, layout, prefix, dtypes or {})
    return int(path.name)


def count_arrays(folder: str | Place) -> int:
    """Return how many arrays of a module the run folder's largest checkpoint lists, without reading them.

    Raise UserError if there is no checkpoint, or if the newest is damaged and lists none.
    """
    checkpoints = storage.absolute(storage.place(folder)) / FOLDER
    parts = ("params", "ema_params", "non_params")
    counts = [listed_arrays(checkpoints / str(step), parts) for step in whole_steps(checkpoints)]
    if not any(counts):
        with contextlib.ExitStack() as opened:
            _readable(checkpoints, "ema_params", None, opened)
    return max(counts)


def _load(
    path: Place,
    module: nnx.Module,
    weights: Weights,
    layout: Layout | None,
    prefix: str,
    dtypes: Mapping[str, np.dtype],
) -> None:
    source = _source(path, weights)
    check_arrays(path, (source, "non_params"))
    with readable(path):
        stored = check_parts(ocp.checkpointables_metadata(path).metadata, (source, "non_params"))
    module_spec = ModuleSpec.of(module)
    refuse_old_parts(str(path), stored)
    target: Parts = {source: {}, "non_params": {}}
    for name, struct in _structs(module_spec, layout).items():
        target[source if module_spec.is_param(name) else "non_params"][prefix + name] = struct
    present = {
        part: {name: leaf for name, leaf in stored.get(part, {}).items() if name.startswith(prefix)} for part in target
    }
    compare(str(path), present, target)
    for name, dtype in dtypes.items():
        part = target[source if module_spec.is_param(name) else "non_params"]
        part[prefix + name] = part[prefix + name].update(dtype=dtype)
    wanted_parts = {
        part: {name: want.get(name, ocp.PLACEHOLDER) for name in stored[part]} for part, want in target.items() if want
    }
    with readable(path):
        loaded = ocp.load_checkpointables(path, wanted_parts)
    values = {name.removeprefix(prefix): leaf for part in loaded.values() for name, leaf in part.items()}
    nnx.update(module, nnx.state(module_spec.merge({name: values[name] for name in module_spec.paths})))


def _readable(checkpoints: Place, weights: Weights, step: int | None, opened: contextlib.ExitStack) -> Place:
    """Return the checkpoint of ``step``, or by default the newest whose weights are intact.

    For a URL that Orbax cannot read, return a local copy, which is deleted when ``opened`` closes.
    """
    steps = whole_steps(checkpoints)
    if not steps or (step is not None and step not in steps):
        wanted = "a checkpoint" if step is None else f"a checkpoint of step {step}"
        raise UserError(
            f"{checkpoints.parent}: expected {wanted}, got {steps or 'none'}; train the model first, "
            "or give a different folder"
        )

    staging = staging_of(checkpoints)
    if staging is not None:
        opened.callback(staging.close)

    def damage(path: Place) -> str | None:
        parts = (_source(path, weights), "non_params")
        look = checksums.damage if staging is None else staging.damage
        return look(path, lambda name: name.split("/")[0] in parts or "/d/" not in name)

    if step is not None:
        reason = damage(checkpoints / str(step))
        if reason is not None:
            raise UserError(
                f"the checkpoint of step {step} in {checkpoints} is damaged ({reason}); "
                f"choose a different step of {steps}"
            )
        return (checkpoints if staging is None else staging.local) / str(step)
    newest, damaged = recovery.newest_whole(checkpoints, damage)
    for bad, reason in damaged.items():
        recovery.warn(f"the checkpoint of step {bad} in {checkpoints} is damaged ({reason}): using step {newest}")
    return (checkpoints if staging is None else staging.local) / str(newest)


def _source(path: Place, weights: Weights) -> Weights:
    """Return the part to load: "params" if EMA weights are wanted but the checkpoint has none, else ``weights``."""
    return "ema_params" if weights == "ema_params" and (path / "ema_params").is_dir() else "params"


def _structs(module_spec: ModuleSpec, layout: Layout | None) -> dict[str, jax.ShapeDtypeStruct]:
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = module_spec.shardings(layout) if layout is not None else dict.fromkeys(module_spec.paths, first)
    return {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=shardings[name])
        for name, leaf in module_spec.stored().items()
    }
