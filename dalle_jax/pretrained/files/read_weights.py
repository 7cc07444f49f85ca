"""Reader of weight files; it detects the format from the content."""

from pathlib import Path

from dalle_jax.pretrained.files.msgpack_files import read_msgpack
from dalle_jax.pretrained.files.npz_files import read_npz
from dalle_jax.pretrained.files.safetensors_files import read_safetensors
from dalle_jax.pretrained.files.tensors import MappedFile, StoredTensor, Tensors, check_name, file_error
from dalle_jax.pretrained.files.torch_files import LEGACY_MAGIC, read_legacy_torch, read_torch_zip
from dalle_jax.pretrained.files.zips import ZipArchive
from dalle_jax.untrusted import OverBudget, parse_json, read_file


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
    try:
        return _read_mapped(file)
    except OverBudget as error:
        raise file_error(path, "a file of weights", str(error)) from error


def _read_mapped(file: MappedFile) -> Tensors:
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
    if file.path.suffix == ".msgpack":
        return read_msgpack(file)
    got = "a plain pickle, which is not run" if head[:1] == b"\x80" else f"one that begins with {head[:8]!r}"
    raise file_error(file.path, "a .safetensors, torch, .msgpack or .npz file", got)


def _read_sharded(path: Path) -> Tensors:
    files_by_tensor = _weight_map(path)
    shards: dict[str, Tensors] = {}
    stored: dict[str, StoredTensor] = {}
    for name, value in files_by_tensor.items():
        file = check_name(path, value)
        if "/" in file or file.endswith(".json"):
            raise file_error(path, "files of its own folder", repr(file)[:80])
        if file not in shards:
            shards[file] = read_tensors(path.parent / file)
        if name not in shards[file].stored:
            raise file_error(path.parent / file, f"the tensor {name[:80]!r} that the index names", "a file without it")
        stored[name] = shards[file].stored[name]
    return Tensors(str(path), stored)


def _weight_map(path: Path) -> dict[str, object]:
    """Return the file of each tensor from an index."""
    try:
        index = parse_json(read_file(path))
    except ValueError as error:
        raise file_error(path, "an index with a weight_map", f"other content ({str(error)[:100]})") from error
    files = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(files, dict):
        raise file_error(path, "an index with a weight_map", "other content")
    return files


def source_files(path: Path) -> list[Path]:
    """List the files that ``read_tensors`` reads for a path, including the index itself."""
    if not path.name.endswith(".index.json"):
        return [path]
    return [path, *(path.parent / name for name in sorted({str(one) for one in _weight_map(path).values()}))]
