"""Readers of ``torch.save`` and ``torch.jit.save`` files without torch: the zip format and the legacy format.

Zip (torch 1.6 and later): ``<stem>/data.pkl`` holds the object, ``<stem>/data/<key>`` the bytes of each storage.
Legacy: three pickles of a header, the object's pickle, the list of storage keys, then each storage's length and bytes.
In both a tensor is a storage, an offset, a shape and strides. Several tensors may share a storage.
"""

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dalle_jax.pretrained.files import pickles
from dalle_jax.pretrained.files.pickle_globals import BadPickle, GlobalName, TensorRef
from dalle_jax.pretrained.files.pickles import ByteStream, PersistentLoad
from dalle_jax.pretrained.files.tensors import (
    DTYPES,
    TENSOR_BYTES,
    MappedFile,
    Scalar,
    StoredTensor,
    Tensors,
    check_name,
    check_shape,
    file_error,
    is_size,
    short_repr,
)
from dalle_jax.pretrained.files.zips import ZipArchive
from dalle_jax.untrusted import FREE_BYTES, MEMORY_RATIO

LEGACY_MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
"""First bytes of a legacy file: the pickle of torch's magic number."""
LEGACY_PROTOCOL = 1001
MAX_PICKLE_BYTES = 1 << 26

STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A flat buffer of ``size`` elements that tensors are views of."""

    key: str
    dtype: np.dtype
    size: int


def read_torch_zip(file: MappedFile, archive: ZipArchive) -> Tensors:
    """Read the tensors of torch's zip format; sizes, offsets and strides are checked before any tensor is read."""
    objects = [name for name in archive.names() if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(objects) != 1:
        raise file_error(file.path, "one <name>/data.pkl", f"{len(objects)} of them; is this an archive of torch?")
    stem = objects[0].removesuffix("data.pkl")
    if f"{stem}byteorder" in archive.members and archive.content(f"{stem}byteorder") != b"little":
        raise file_error(file.path, "little-endian numbers", "a file of a big-endian machine")
    member = archive.uncompressed_member(objects[0])
    if member.size > MAX_PICKLE_BYTES:
        raise file_error(file.path, f"a pickle of at most {MAX_PICKLE_BYTES} bytes", f"{member.size}")
    archive.check(objects[0])
    stream = _FileSlice(file, member.start, member.start + member.size)
    root = _load(file, stream, lambda value: _storage(file.path, value))

    def locate(storage: Storage) -> int:
        data = archive.uncompressed_member(f"{stem}data/{storage.key}")
        if data.size != storage.size * storage.dtype.itemsize:
            expected = f"storage {storage.key!r} of {storage.size} {storage.dtype.name}"
            raise file_error(file.path, expected, f"{data.size} bytes")
        return data.start

    return _tensors(file, root, locate, lambda storage: archive.check(f"{stem}data/{storage.key}"))


def read_legacy_torch(file: MappedFile) -> Tensors:
    """Read the tensors of the format that torch wrote before 1.6."""
    stream = _FileSlice(file, 0, len(file))
    _, protocol, system = (_load(file, stream, _no_storage) for _ in range(3))
    if protocol != LEGACY_PROTOCOL or not isinstance(system, dict) or system.get("little_endian") is not True:
        expected = f"torch's legacy format, protocol {LEGACY_PROTOCOL}, little-endian"
        raise file_error(file.path, expected, f"protocol {short_repr(protocol)} or a different byte order")
    storages: dict[str, Storage] = {}

    def persistent_load(value: object) -> Storage:
        storage = _storage(file.path, value)
        if storages.setdefault(storage.key, storage) != storage:
            raise BadPickle(f"storage {storage.key!r} with two sizes or dtypes")
        return storage

    root = _load(file, stream, persistent_load)
    starts = _legacy_starts(file, stream, storages)
    return _tensors(file, root, lambda storage: starts[storage.key], lambda storage: None)


def _legacy_starts(file: MappedFile, stream: ByteStream, storages: dict[str, Storage]) -> dict[str, int]:
    """Return the position of each storage's first byte in a legacy file. Storages follow the list of their keys."""
    listed = _load(file, stream, _no_storage)
    if not isinstance(listed, list) or not all(isinstance(key, str) for key in listed):
        raise file_error(file.path, "a list of storage keys", short_repr(listed))
    keys: list[str] = listed
    if sorted(keys) != sorted(storages):
        raise file_error(file.path, f"the keys of its {len(storages)} storages", "other keys")
    starts = {}
    at = stream.tell()
    for key in keys:
        storage, head = storages[key], file.bytes[at : at + 8]
        size = struct.unpack("<q", head)[0] if len(head) == 8 else None
        if size != storage.size:
            got = "a file cut off" if size is None else str(size)
            raise file_error(file.path, f"{storage.size} numbers in storage {key!r}", got)
        starts[key], at = at + 8, at + 8 + size * storage.dtype.itemsize
        if at > len(file):
            raise file_error(file.path, f"{at} bytes", f"{len(file)}: it is cut off")
    return starts


class _FileSlice:
    """A ``ByteStream`` over the bytes ``start`` to ``end`` of a mapped file."""

    def __init__(self, file: MappedFile, start: int, end: int):
        self.bytes, self.at, self.end = file.bytes, start, end

    def read(self, count: int, /) -> bytes:
        found = self.bytes[self.at : min(self.at + count, self.end)] if count >= 0 else b""
        self.at += len(found)
        return found

    def readline(self) -> bytes:
        end = self.bytes.find(b"\n", self.at, min(self.at + 4096, self.end))
        return self.read((end + 1 if end >= 0 else self.end) - self.at)

    def tell(self) -> int:
        return self.at


def _load(file: MappedFile, stream: ByteStream, persistent_load: PersistentLoad) -> object:
    try:
        return pickles.load(stream, persistent_load, file.budget)
    except BadPickle as error:
        raise file_error(file.path, "the pickle of a file of weights", str(error)) from error


def _no_storage(value: object) -> object:
    raise BadPickle(f"a persistent id {short_repr(value)} in a pickle that may have none")


def _storage(path: Path, value: object) -> Storage:
    """Parse a persistent id: ("storage", class, key, device, size), with None at the end in the legacy format."""
    if not isinstance(value, tuple) or not value or value[0] != "storage":
        if isinstance(value, tuple) and value[:1] == ("module",):
            raise BadPickle("a whole network with its source code, which is not run; save its state_dict() instead")
        raise BadPickle(f"a persistent id {short_repr(value)}")
    if len(value) not in (5, 6) or (len(value) == 6 and value[5] is not None):
        raise BadPickle("a storage that is a view of a different storage, as torch saved before 0.4")
    _, kind, key, _, size = value[:5]
    name = kind.name.removesuffix("Storage") if isinstance(kind, GlobalName) else ""
    if name not in STORAGES or not is_size(size):
        of_kind = kind if isinstance(kind, GlobalName) else short_repr(kind)
        raise BadPickle(f"a storage of kind {of_kind} and size {short_repr(size)}")
    if check_name(path, key).startswith("."):
        raise BadPickle(f"a storage with the key {key!r}")
    return Storage(key, DTYPES[STORAGES[name]], size)


def _tensors(
    file: MappedFile, root: object, locate: Callable[[Storage], int], check: Callable[[Storage], None]
) -> Tensors:
    """Collect all tensors of an object.

    ``locate`` returns a storage's first byte. ``check`` runs before a tensor is read, and raises UserError if the
    storage's bytes are damaged.
    """
    stored: dict[str, StoredTensor] = {}
    scalars: dict[str, Scalar] = {}
    try:
        found = list(pickles.leaves(root, file.budget))
    except BadPickle as error:
        raise file_error(file.path, "the objects of a file of weights", str(error)) from error
    for name, value in found:
        if isinstance(value, TensorRef):
            if name in stored:
                raise file_error(file.path, "every tensor once", f"{name!r} twice")
            file.budget.spend(TENSOR_BYTES, 0)
            stored[check_name(file.path, name)] = _tensor_view(file, name, value, locate, check)
        elif isinstance(value, Scalar):
            scalars[name] = value
    if not stored:
        raise file_error(file.path, "tensors", "a file without any")
    size = sum(math.prod(one.shape) * one.dtype.itemsize for one in stored.values())
    if size > FREE_BYTES + MEMORY_RATIO * len(file):
        raise file_error(file.path, "tensors that share few numbers", f"{size} bytes in a file of {len(file)}")
    return Tensors(str(file.path), stored, scalars)


def _tensor_view(
    file: MappedFile, name: str, ref: TensorRef, locate: Callable[[Storage], int], check: Callable[[Storage], None]
) -> StoredTensor:
    """Return a tensor as a view of its storage.

    Raises UserError if an element lies outside the storage, or if the tensor has more elements than the storage.
    """
    storage = ref.storage
    if not isinstance(storage, Storage):
        raise file_error(file.path, f"a storage for {name!r}", type(storage).__name__)
    start, dtype, size = locate(storage), storage.dtype, storage.size
    if ref.dtype is not None:
        if ref.dtype.module != "torch" or ref.dtype.name not in DTYPES:
            raise file_error(file.path, f"a known dtype for {name!r}", str(ref.dtype)[:80])
        dtype = DTYPES[ref.dtype.name]
        size = storage.size * storage.dtype.itemsize // dtype.itemsize
    shape, strides = check_shape(file.path, name, ref.shape), check_shape(file.path, name, ref.strides)
    if len(strides) != len(shape) or not is_size(ref.offset):
        got = f"{short_repr(ref.offset)} and {short_repr(strides)}"
        raise file_error(file.path, f"an offset and {len(shape)} strides for {name!r}", got)
    offset = ref.offset
    count = math.prod(shape)
    last = offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    if count > size or (count and last >= size) or offset > size:
        got = f"shape {list(shape)} with strides {list(strides)} from offset {offset}"
        raise file_error(file.path, f"{name!r} inside its storage of {size} numbers", got[:200])
    at = start + offset * dtype.itemsize

    def read() -> np.ndarray:
        check(storage)
        return file.array(dtype, shape, at, strides)

    return StoredTensor(shape, dtype, read)
