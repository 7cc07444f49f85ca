"""Files of ``torch.save`` and ``torch.jit.save``, read without torch: the zip archive and the older container.

Zip (torch 1.6 and later): ``<stem>/data.pkl`` is the object, ``<stem>/data/<key>`` the bytes of each storage.
Older: three pickles that say so, the object's pickle, the list of storage keys, then each storage's length and bytes.
In both a tensor is a storage, an offset, a shape and strides; several may share a storage.
"""

import math
import re
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dalle_jax.pretrained.files import pickles
from dalle_jax.pretrained.files.pickles import BadPickle, Name, TensorRef
from dalle_jax.pretrained.files.tensors import (
    DTYPES,
    MappedFile,
    Stored,
    Tensors,
    check_name,
    check_shape,
    refused,
    shown,
    whole_number,
)
from dalle_jax.pretrained.files.zips import Archive

MAGIC = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19\x2e"
"""How a file of the older container begins: a pickle of torch's magic number."""
OLD_PROTOCOL = 1001
LARGEST_PICKLE = 1 << 26

STORAGES = {
    "Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64", "Int": "int32",
    "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "Untyped": "uint8",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """The numbers that tensors are views of: ``size`` elements."""

    key: str
    dtype: np.dtype
    size: int


def read_zip(file: MappedFile, archive: Archive) -> Tensors:
    """The tensors of a zip archive of torch; sizes, offsets and strides are checked before anything is read."""
    objects = [name for name in archive.names() if re.fullmatch(r"[^/]+/data\.pkl", name)]
    if len(objects) != 1:
        raise refused(file.path, "one <name>/data.pkl", f"{len(objects)} of them; is it an archive of torch?")
    stem = objects[0].removesuffix("data.pkl")
    if f"{stem}byteorder" in archive.members and archive.content(f"{stem}byteorder") != b"little":
        raise refused(file.path, "little-endian numbers", "a file of a big-endian machine")
    member = archive.in_place(objects[0])
    if member.size > LARGEST_PICKLE:
        raise refused(file.path, f"a pickle of at most {LARGEST_PICKLE} bytes", f"{member.size}")
    archive.check(objects[0])
    stream = _Slice(file, member.start, member.start + member.size)
    root = _load(file.path, stream, lambda value: _storage(file.path, value))

    def place(storage: Storage) -> int:
        data = archive.in_place(f"{stem}data/{storage.key}")
        if data.size != storage.size * storage.dtype.itemsize:
            said = f"{storage.size} of {storage.dtype.name}"
            raise refused(file.path, f"storage {storage.key!r} of {said}", f"{data.size} bytes")
        return data.start

    return _tensors(file, root, place, lambda storage: archive.check(f"{stem}data/{storage.key}"))


def read_old(file: MappedFile) -> Tensors:
    """The tensors of the container that torch wrote before 1.6."""
    stream = _Slice(file, 0, len(file))
    heads = [_load(file.path, stream, _no_storage) for _ in range(3)]
    if heads[1] != OLD_PROTOCOL or not isinstance(heads[2], dict) or heads[2].get("little_endian") is not True:
        raise refused(file.path, f"torch's old container, protocol {OLD_PROTOCOL}, little-endian", "another")
    storages: dict[str, Storage] = {}

    def persistent(value: Any) -> Storage:
        storage = _storage(file.path, value)
        if storages.setdefault(storage.key, storage) != storage:
            raise BadPickle(f"storage {storage.key!r} in two kinds")
        return storage

    root = _load(file.path, stream, persistent)
    keys = _load(file.path, stream, _no_storage)
    texts = isinstance(keys, list) and all(isinstance(key, str) for key in keys)
    if not texts or sorted(keys) != sorted(storages):
        raise refused(file.path, f"the keys of its {len(storages)} storages", "others")
    starts = {}
    at = stream.tell()
    for key in keys:
        storage, head = storages[key], file.bytes[at : at + 8]
        size = struct.unpack("<q", head)[0] if len(head) == 8 else None
        if size != storage.size:
            raise refused(
                file.path, f"{storage.size} numbers in storage {key!r}", "a file cut off" if size is None else str(size)
            )
        starts[key], at = at + 8, at + 8 + size * storage.dtype.itemsize
        if at > len(file):
            raise refused(file.path, f"{at} bytes", f"{len(file)}: it is cut off")
    return _tensors(file, root, lambda storage: starts[storage.key], lambda storage: None)


class _Slice:
    """The part of a mapped file from ``start`` to ``end`` as the file that pickletools reads from."""

    def __init__(self, file: MappedFile, start: int, end: int):
        self.bytes, self.at, self.end = file.bytes, start, end

    def read(self, count: int) -> bytes:
        found = self.bytes[self.at : min(self.at + count, self.end)] if count >= 0 else b""
        self.at += len(found)
        return found

    def readline(self) -> bytes:
        end = self.bytes.find(b"\n", self.at, min(self.at + 4096, self.end))
        return self.read((end + 1 if end >= 0 else self.end) - self.at)

    def tell(self) -> int:
        return self.at


def _load(path: Path, stream: Any, persistent: Callable[[Any], Any]) -> Any:
    try:
        return pickles.load(stream, persistent)
    except BadPickle as error:
        raise refused(path, "the pickle of a file of weights", str(error)) from error


def _no_storage(value: Any) -> Any:
    raise BadPickle(f"a reference {shown(value)} where there is none")


def _storage(path: Path, value: Any) -> Storage:
    """What a persistent id stands for: ("storage", class, key, device, size), and None at the end of the older form."""
    if not isinstance(value, tuple) or not value or value[0] != "storage":
        if isinstance(value, tuple) and value[:1] == ("module",):
            raise BadPickle("a whole network with its source code, which is not run; save its state_dict() instead")
        raise BadPickle(f"a reference {shown(value)}")
    if len(value) not in (5, 6) or (len(value) == 6 and value[5] is not None):
        raise BadPickle("a storage that is a view of another, as torch saved before 0.4")
    _, kind, key, _, size = value[:5]
    name = kind.name.removesuffix("Storage") if isinstance(kind, Name) else ""
    if name not in STORAGES or not whole_number(size):
        raise BadPickle(f"a storage of kind {kind if isinstance(kind, Name) else shown(kind)} and size {shown(size)}")
    if check_name(path, key).startswith("."):
        raise BadPickle(f"a storage with the key {key!r}")
    return Storage(key, DTYPES[STORAGES[name]], size)


def _tensors(file: MappedFile, root: Any, place: Callable[[Storage], int], check: Callable[[Storage], None]) -> Tensors:
    """All tensors of an object; ``check`` is asked before one of a storage is read, and refuses damaged bytes."""
    stored: dict[str, Stored] = {}
    values: dict[str, Any] = {}
    try:
        found = list(pickles.leaves(root))
    except BadPickle as error:
        raise refused(file.path, "the objects of a file of weights", str(error)) from error
    for name, value in found:
        if isinstance(value, TensorRef):
            if name in stored:
                raise refused(file.path, "every tensor once", f"{name!r} twice")
            stored[check_name(file.path, name)] = _stored(file, name, value, place, check)
        elif isinstance(value, int | float | str | bool):
            values[name] = value
    if not stored:
        raise refused(file.path, "tensors", "a file without any")
    return Tensors(str(file.path), stored, values)


def _stored(
    file: MappedFile, name: str, ref: TensorRef, place: Callable[[Storage], int], check: Callable[[Storage], None]
) -> Stored:
    """A tensor whose every element lies in its storage, and which has no more elements than that."""
    storage = ref.storage
    if not isinstance(storage, Storage):
        raise refused(file.path, f"a storage for {name!r}", type(storage).__name__)
    start, dtype, size = place(storage), storage.dtype, storage.size
    if ref.dtype is not None:
        if ref.dtype.module != "torch" or ref.dtype.name not in DTYPES:
            raise refused(file.path, f"a known dtype for {name!r}", str(ref.dtype)[:80])
        dtype = DTYPES[ref.dtype.name]
        size = storage.size * storage.dtype.itemsize // dtype.itemsize
    shape, strides = check_shape(file.path, name, ref.shape), check_shape(file.path, name, ref.strides)
    if len(strides) != len(shape) or not whole_number(ref.offset):
        raise refused(
            file.path, f"an offset and {len(shape)} strides for {name!r}", f"{shown(ref.offset)} and {shown(strides)}"
        )
    count = math.prod(shape)
    last = ref.offset + sum((length - 1) * step for length, step in zip(shape, strides, strict=True))
    if count > size or (count and last >= size) or ref.offset > size:
        got = f"shape {list(shape)} with strides {list(strides)} from {ref.offset} on"
        raise refused(file.path, f"{name!r} inside its storage of {size} numbers", got[:200])
    at = start + ref.offset * dtype.itemsize

    def read() -> np.ndarray:
        check(storage)
        return file.array(dtype, shape, at, strides)

    return Stored(shape, dtype, read)
