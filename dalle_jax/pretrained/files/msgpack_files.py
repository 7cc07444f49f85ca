"""Reader of Flax's ``.msgpack``: nested dicts of arrays, which it maps instead of copying."""

import math
import struct
import sys

import numpy as np

from dalle_jax.pretrained.files.tensors import (
    DTYPES,
    MAX_NAME_LENGTH,
    MAX_TENSORS,
    TENSOR_BYTES,
    MappedFile,
    Scalar,
    StoredTensor,
    Tensors,
    check_name,
    check_shape,
    file_error,
    short_repr,
)

ARRAY, SCALAR = 1, 3
"""Flax's extension types of an array and a numpy scalar; both hold [shape, dtype, bytes]."""
CHUNKED = "__msgpack_chunked_array__"
MAX_DEPTH = 64
VALUE_BYTES = 100
"""Bytes of memory that are spent for a value: an empty dict, or a number and its place in a list."""


class _MalformedMsgpack(Exception):
    """Content that is not MessagePack, or that Flax does not write."""


class _ByteRange:
    """Span of binary data that is left unread in the file."""

    def __init__(self, start: int, end: int):
        self.start, self.end = start, end


class _Reader:
    """Parser of MessagePack (specification version 5) from byte ``at`` to ``end``; binary data is not copied."""

    def __init__(self, file: MappedFile, at: int, end: int):
        self.file, self.at, self.end = file, at, end

    def skip(self, count: int) -> int:
        start = self.at
        if count > self.end - start:
            raise _MalformedMsgpack("it is cut off")
        self.at += count
        return start

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        return self.file.bytes[start : start + count]

    def number(self, form: str) -> int | float:
        return struct.unpack(f">{form}", self.take(struct.calcsize(form)))[0]

    def text(self, count: int) -> str:
        found = self.take(count).decode("utf-8")
        self.file.budget.spend(sys.getsizeof(found), 0)
        return found

    def count(self, form: str) -> int:
        return int(self.number(form))

    def value(self, depth: int = 0) -> object:
        if depth > MAX_DEPTH:
            raise _MalformedMsgpack(f"objects nested more than {MAX_DEPTH} deep")
        self.file.budget.spend(VALUE_BYTES)
        first = self.take(1)[0]
        if first < 0x80 or first >= 0xE0:
            return first if first < 0x80 else first - 256
        if first < 0x90:
            return self.mapping(first & 0x0F, depth)
        if first < 0xA0:
            return self.array(first & 0x0F, depth)
        if first < 0xC0:
            return self.text(first & 0x1F)
        if first in CONSTANTS:
            return CONSTANTS[first]
        if first in NUMBERS:
            return self.number(NUMBERS[first])
        if first in SIZED:
            kind, form = SIZED[first]
            return self.sized(kind, self.count(form) if isinstance(form, str) else form, depth)
        raise _MalformedMsgpack(f"the byte {first:#x}")

    def sized(self, kind: str, count: int, depth: int) -> object:
        if kind == "map":
            return self.mapping(count, depth)
        if kind == "array":
            return self.array(count, depth)
        if kind == "text":
            return self.text(count)
        if kind == "bytes":
            start = self.skip(count)
            return _ByteRange(start, self.at)
        extension = self.count("b")
        start = self.skip(count)
        return self.extension(extension, start, self.at)

    def array(self, count: int, depth: int) -> list[object]:
        if count > self.end - self.at:
            raise _MalformedMsgpack("it is cut off")
        return [self.value(depth + 1) for _ in range(count)]

    def mapping(self, count: int, depth: int) -> dict[str, object]:
        found: dict[str, object] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise _MalformedMsgpack(f"the key {short_repr(key)}, which is not a string or comes twice")
            found[key] = self.value(depth + 1)
        return found

    def extension(self, kind: int, start: int, end: int) -> StoredTensor:
        if kind not in (ARRAY, SCALAR):
            raise _MalformedMsgpack(f"an extension of type {kind}")
        inside = _Reader(self.file, start, end)
        parts = inside.value(MAX_DEPTH - 2)
        if inside.at != end or not isinstance(parts, list) or len(parts) != 3 or not isinstance(parts[2], _ByteRange):
            raise _MalformedMsgpack("an array that is not shape, dtype and bytes")
        shape, dtype, raw = check_shape(self.file.path, "an array", parts[0]), parts[1], parts[2]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise _MalformedMsgpack(f"an array of dtype {short_repr(dtype)}")
        known = DTYPES[dtype]
        if raw.end - raw.start != math.prod(shape) * known.itemsize:
            raise _MalformedMsgpack(f"{raw.end - raw.start} bytes for {dtype}{list(shape)}"[:200])
        self.file.budget.spend(TENSOR_BYTES, 0)
        return StoredTensor(shape, known, lambda: self.file.array(known, shape, raw.start))


CONSTANTS = {0xC0: None, 0xC2: False, 0xC3: True}
NUMBERS = {
    0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q", 0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q",
}  # fmt: skip
SIZED: dict[int, tuple[str, str | int]] = {
    **{0xC4: ("bytes", "B"), 0xC5: ("bytes", "H"), 0xC6: ("bytes", "I")},
    **{0xC7: ("extension", "B"), 0xC8: ("extension", "H"), 0xC9: ("extension", "I")},
    **{
        0xD4: ("extension", 1),
        0xD5: ("extension", 2),
        0xD6: ("extension", 4),
        0xD7: ("extension", 8),
        0xD8: ("extension", 16),
    },
    **{0xD9: ("text", "B"), 0xDA: ("text", "H"), 0xDB: ("text", "I")},
    **{0xDC: ("array", "H"), 0xDD: ("array", "I"), 0xDE: ("map", "H"), 0xDF: ("map", "I")},
}


def read_msgpack(file: MappedFile) -> Tensors:
    """Read the arrays of nested dicts.

    An array's name is its keys joined with "/"; numbers and strings become scalars.
    """
    reader = _Reader(file, 0, len(file))
    try:
        root = reader.value()
        if reader.at != len(file) or not isinstance(root, dict):
            raise _MalformedMsgpack("content that is not a single dict")
        stored: dict[str, StoredTensor] = {}
        scalars: dict[str, Scalar] = {}
        _flatten(file, "", root, stored, scalars)
    except (_MalformedMsgpack, UnicodeDecodeError, RecursionError) as error:
        raise file_error(file.path, "a .msgpack file of Flax", f"a malformed one ({str(error)[:200]})") from error
    for name in stored:
        check_name(file.path, name)
    return Tensors(str(file.path), stored, scalars)


def _flatten(
    file: MappedFile,
    prefix: str,
    node: dict[str, object],
    stored: dict[str, StoredTensor],
    scalars: dict[str, Scalar],
) -> None:
    for key, value in node.items():
        name = f"{prefix}{key}"
        file.budget.spend(sys.getsizeof(name))
        if len(name) > MAX_NAME_LENGTH:
            raise _MalformedMsgpack(f"a name of {len(name)} characters")
        if isinstance(value, dict):
            if CHUNKED in value:
                value = _join_chunks(value)
            else:
                _flatten(file, f"{name}/", value, stored, scalars)
                continue
        if name in stored or len(stored) >= MAX_TENSORS:
            raise _MalformedMsgpack(f"{name[:80]!r} twice, or more than {MAX_TENSORS} arrays")
        if isinstance(value, StoredTensor):
            stored[name] = value
        elif isinstance(value, Scalar):
            scalars[name] = value


def _join_chunks(node: dict[str, object]) -> StoredTensor:
    """Join the flat chunks into which Flax cuts an array of more than a gigabyte."""
    sizes, chunks = node.get("shape"), node.get("chunks")
    if not isinstance(sizes, dict) or not isinstance(chunks, dict) or not chunks:
        raise _MalformedMsgpack("a chunked array without shape or chunks")
    shape = check_shape("a chunked array", "shape", [sizes.get(str(i)) for i in range(len(sizes))])
    parts = [chunks.get(str(i)) for i in range(len(chunks))]
    whole = [part for part in parts if isinstance(part, StoredTensor)]
    if len(whole) != len(parts) or len({part.dtype for part in whole}) != 1:
        raise _MalformedMsgpack("chunks that are missing or of several dtypes")
    if sum(math.prod(part.shape) for part in whole) != math.prod(shape):
        raise _MalformedMsgpack(f"chunks that do not make up the shape {list(shape)}"[:200])
    return StoredTensor(
        shape, whole[0].dtype, lambda: np.concatenate([part.read().ravel() for part in whole]).reshape(shape)
    )
