"""Reader of weight files; it detects the format from the content."""

import json
from pathlib import Path

from dalle_jax.pretrained.files.msgpack_files import read_msgpack
from dalle_jax.pretrained.files.npz_files import read_npz
from dalle_jax.pretrained.files.safetensors_files import read_safetensors
from dalle_jax.pretrained.files.tensors import MappedFile, StoredTensor, Tensors, check_name, file_error
from dalle_jax.pretrained.files.torch_files import LEGACY_MAGIC, read_legacy_torch, read_torch_zip
from dalle_jax.pretrained.files.zips import ZipArchive

MAX_INDEX_BYTES = 1 << 26


def read_tensors(path: str | Path) -> Tensors:
    """Read a ``.safetensors``, torch (``.pt .pth .bin .ckpt .pkl``), ``.msgpack`` or ``.npz`` file.

    For an index (``….index.json``) read all shards that it lists, in the same folder. Tensors keep their names in the
    file; nested names are joined with "." (torch) or "/" (Flax). Raise ``UserError`` for any other content. Code in a
    file is never run.
    """
    path = Path(path)
    if path.name.endswith(".index.json"):
        return _read_sharded(path)
    file = MappedFile(path)
    head = file.bytes[:16]
    if head[:4] == b"PK\x03\x04":
        archive = ZipArchive(file)
        if all(name.endswith(".npy") for name in archive.names()):
            return read_npz(file, archive)
        return read_torch_zip(file, archive)
    if head[: len(LEGACY_MAGIC)] == LEGACY_MAGIC:
        return read_legacy_torch(file)
    if head[8:9] == b"{":
        return read_safetensors(file)
    if path.suffix == ".msgpack":
        return read_msgpack(file)
    got = "a plain pickle, which is not run" if head[:1] == b"\x80" else f"one that begins with {head[:8]!r}"
    raise file_error(path, "a .safetensors, torch, .msgpack or .npz file", got)


def _read_sharded(path: Path) -> Tensors:
    if path.stat().st_size > MAX_INDEX_BYTES:
        raise file_error(path, f"an index of at most {MAX_INDEX_BYTES} bytes", str(path.stat().st_size))
    try:
        files_by_tensor = dict(json.loads(path.read_bytes())["weight_map"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise file_error(path, "an index with a weight_map", "other content") from error
    shards: dict[str, Tensors] = {}
    stored: dict[str, StoredTensor] = {}
    for name, file in files_by_tensor.items():
        if "/" in check_name(path, file) or file.endswith(".json"):
            raise file_error(path, "files of its own folder", repr(file)[:80])
        if file not in shards:
            shards[file] = read_tensors(path.parent / file)
        if name not in shards[file].stored:
            raise file_error(path.parent / file, f"the tensor {name[:80]!r} that the index names", "a file without it")
        stored[name] = shards[file].stored[name]
    return Tensors(str(path), stored)


def source_files(path: Path) -> list[Path]:
    """List the files that ``read_tensors`` reads for a path, including the index itself."""
    if not path.name.endswith(".index.json"):
        return [path]
    files_by_tensor = json.loads(path.read_bytes())["weight_map"]
    return [path, *(path.parent / name for name in sorted(set(files_by_tensor.values())))]
