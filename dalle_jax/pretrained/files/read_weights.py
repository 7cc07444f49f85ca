"""Published weight files of every kind behind one function, told from each other by content."""

import json
from pathlib import Path
from typing import Any

from dalle_jax.pretrained.files.msgpack_files import read_msgpack
from dalle_jax.pretrained.files.npz_files import read_npz
from dalle_jax.pretrained.files.safetensors_files import read_safetensors
from dalle_jax.pretrained.files.tensors import MappedFile, Stored, Tensors, check_name, refused
from dalle_jax.pretrained.files.torch_files import MAGIC, read_old, read_zip
from dalle_jax.pretrained.files.zips import Archive

LARGEST_INDEX = 1 << 26


def read_tensors(path: str | Path) -> Tensors:
    """The tensors of a ``.safetensors``, torch (``.pt .pth .bin .ckpt .pkl``), ``.msgpack`` or ``.npz`` file.

    Also of an index (``….index.json``) of several such files in its folder. Names are the file's own, nested ones
    joined with "." (torch) or "/" (Flax). Raises UserError, which names the file, for everything else; nothing in
    a file is ever run.
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_indexed(path)
    file = MappedFile(path)
    head = file.bytes[:16]
    if head[:4] == b"PK\x03\x04":
        archive = Archive(file)
        if all(name.endswith(".npy") for name in archive.names()):
            return read_npz(file, archive)
        return read_zip(file, archive)
    if head[: len(MAGIC)] == MAGIC:
        return read_old(file)
    if head[8:9] == b"{":
        return read_safetensors(file)
    if path.suffix == ".msgpack":
        return read_msgpack(file)
    got = "a plain pickle, which is not run" if head[:1] == b"\x80" else f"one that begins with {head[:8]!r}"
    raise refused(path, "a .safetensors, torch, .msgpack or .npz file", got)


def _read_indexed(path: Path) -> Tensors:
    if path.stat().st_size > LARGEST_INDEX:
        raise refused(path, f"an index of at most {LARGEST_INDEX} bytes", str(path.stat().st_size))
    try:
        index: Any = json.loads(path.read_bytes())
        places = dict(index["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise refused(path, "an index with a weight_map", "something else") from error
    shards: dict[str, Tensors] = {}
    stored: dict[str, Stored] = {}
    for name, file in places.items():
        if "/" in check_name(path, file) or file.endswith(".json"):
            raise refused(path, "files of its own folder", repr(file)[:80])
        if file not in shards:
            shards[file] = read_tensors(path.parent / file)
        if name not in shards[file].stored:
            raise refused(path.parent / file, f"the tensor {name[:80]!r} that the index names", "a file without it")
        stored[name] = shards[file].stored[name]
    return Tensors(str(path), stored)


def source_files(path: Path) -> list[Path]:
    """The files that ``read_tensors`` reads for a path, the index itself among them."""
    if not path.name.endswith(".index.json"):
        return [path]
    places = json.loads(path.read_bytes())["weight_map"]
    return [path, *(path.parent / name for name in sorted(set(places.values())))]
