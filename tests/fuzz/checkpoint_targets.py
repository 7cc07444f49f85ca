"""The reader of checkpoints: one file of a checkpoint is mutated, and the checksums are written anew."""

import functools
import shutil
from pathlib import Path

import tensorstore
from flax import nnx

from dalle_jax.train.checkpoints import checksums
from dalle_jax.train.checkpoints.checkpoints import load_params
from dalle_jax.train.checkpoints.save_weights import save_weights
from tests.fuzz.targets import Target

DESCRIPTION = "kernel/zarr.json"
FILES = ("_CHECKPOINT_METADATA", "params/_METADATA", "params/_sharding", "params/array_metadatas/process_0")
DATABASE = "params/manifest.ocdbt"


def checkpoint_targets(folder: Path) -> list[Target]:
    """Return a target for each kind of file in a checkpoint; ``folder`` is for the checkpoint."""
    whole = folder / "whole"
    save_weights(whole, nnx.Linear(4, 8, rngs=nnx.Rngs(0)), "config", {})
    checkpoint = whole / "checkpoints" / "0"
    described = _store(checkpoint).read(DESCRIPTION).result().value
    targets = [Target("array's description", "model", (described,), _load, functools.partial(_describe, whole))]
    for name in (*FILES, DATABASE, checksums.FILE):
        seed = (checkpoint / name).read_bytes()
        targets.append(Target(name, "model", (seed,), _load, functools.partial(_replace, whole, name)))
    return targets


def _store(checkpoint: Path) -> tensorstore.KvStore:
    return tensorstore.KvStore.open({"driver": "ocdbt", "base": f"file://{checkpoint}/params/"}).result()


def _describe(whole: Path, path: Path, content: bytes) -> None:
    checkpoint = shutil.copytree(whole, path) / "checkpoints" / "0"
    _store(checkpoint).write(DESCRIPTION, content).result()
    checksums.seal(checkpoint, 0)


def _replace(whole: Path, name: str, path: Path, content: bytes) -> None:
    checkpoint = shutil.copytree(whole, path) / "checkpoints" / "0"
    (checkpoint / name).write_bytes(content)
    if name == checksums.FILE:
        return
    try:
        checksums.seal(checkpoint, 0)
    except ValueError:  # a file without JSON, which gets no checksum
        return


@functools.cache
def _abstract() -> tuple[nnx.GraphDef, nnx.State]:
    return nnx.split(nnx.eval_shape(lambda: nnx.Linear(4, 8, rngs=nnx.Rngs(0))))


def _load(path: Path) -> None:
    load_params(path, nnx.merge(*_abstract()))
