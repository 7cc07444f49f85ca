"""Flax's ``.msgpack``: nested dicts of arrays, read by a small reader of our own that copies no array."""

import math
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np

from dalle_jax.pretrained.files.tensors import (
    DTYPES,
    LONGEST_NAME,
    MOST_TENSORS,
    MappedFile,
    Stored,
    Tensors,
    check_name,
    check_shape,
    refused,
    shown,
)

ARRAY, SCALAR = 1, 3
"""Flax's extension types for an array and for a numpy scalar; both are [shape, dtype, bytes]."""
CHUNKED = "__msgpack_chunked_array__"
DEEPEST = 64
MOST_VALUES = 5_000_000
"""Numbers, texts and arrays of a file: an array takes about eight."""


class _Broken(Exception):
    pass


class _Raw:
    """Bytes that were not read: where they lie."""

    def __init__(self, start: int, end: int):
        self.start, self.end = start, end


class _Reader:
    """MessagePack (its specification, version 5) from ``at`` to ``end``; binary data stays where it is."""

    def __init__(self, file: MappedFile, at: int, end: int, left: Iterator[int] | None = None):
        self.file, self.at, self.end = file, at, end
        self.left = iter(range(MOST_VALUES)) if left is None else left

    def skip(self, count: int) -> int:
        start = self.at
        if count > self.end - start:
            raise _Broken("it is cut off")
        self.at += count
        return start

    def take(self, count: int) -> bytes:
        start = self.skip(count)
        return self.file.bytes[start : start + count]

    def number(self, form: str) -> Any:
        return struct.unpack(f">{form}", self.take(struct.calcsize(form)))[0]

    def text(self, count: int) -> str:
        return self.take(count).decode("utf-8")

    def value(self, depth: int = 0) -> Any:
        if depth > DEEPEST:
            raise _Broken(f"dicts in each other more than {DEEPEST} deep")
        if next(self.left, None) is None:
            raise _Broken(f"more than {MOST_VALUES} values")
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
            return self.sized(kind, self.number(form) if isinstance(form, str) else form, depth)
        raise _Broken(f"the byte {first:#x}")

    def sized(self, kind: str, count: int, depth: int) -> Any:
        if kind == "map":
            return self.mapping(count, depth)
        if kind == "array":
            return self.array(count, depth)
        if kind == "text":
            return self.text(count)
        if kind == "bytes":
            start = self.skip(count)
            return _Raw(start, self.at)
        extension = self.number("b")
        start = self.skip(count)
        return self.extension(extension, start, self.at)

    def array(self, count: int, depth: int) -> list[Any]:
        if count > self.end - self.at:
            raise _Broken("it is cut off")
        return [self.value(depth + 1) for _ in range(count)]

    def mapping(self, count: int, depth: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):
            key = self.value(depth + 1)
            if not isinstance(key, str) or key in found:
                raise _Broken(f"the key {shown(key)}, no text or there before")
            found[key] = self.value(depth + 1)
        return found

    def extension(self, kind: int, start: int, end: int) -> Any:
        if kind not in (ARRAY, SCALAR):
            raise _Broken(f"an extension of type {kind}")
        inside = _Reader(self.file, start, end, self.left)
        parts = inside.value(DEEPEST - 2)
        if inside.at != end or not isinstance(parts, list) or len(parts) != 3 or not isinstance(parts[2], _Raw):
            raise _Broken("an array that is not shape, dtype and bytes")
        shape, dtype, raw = check_shape(self.file.path, "an array", parts[0]), parts[1], parts[2]
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise _Broken(f"an array of dtype {shown(dtype)}")
        known = DTYPES[dtype]
        if raw.end - raw.start != math.prod(shape) * known.itemsize:
            raise _Broken(f"{raw.end - raw.start} bytes for {dtype}{list(shape)}"[:200])
        return Stored(shape, known, lambda: self.file.array(known, shape, raw.start))


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
    """Arrays by the names of their dicts, joined with "/"; numbers and texts are values beside them."""
    reader = _Reader(file, 0, len(file))
    try:
        root = reader.value()
        if reader.at != len(file) or not isinstance(root, dict):
            raise _Broken("no dict, or something behind it")
        stored: dict[str, Stored] = {}
        values: dict[str, Any] = {}
        _flatten("", root, stored, values)
    except (_Broken, UnicodeDecodeError, RecursionError) as error:
        raise refused(file.path, "a .msgpack file of Flax", f"a broken one ({str(error)[:200]})") from error
    for name in stored:
        check_name(file.path, name)
    return Tensors(str(file.path), stored, values)


def _flatten(prefix: str, node: dict[str, Any], stored: dict[str, Stored], values: dict[str, Any]) -> None:
    for key, value in node.items():
        name = f"{prefix}{key}"
        if len(name) > LONGEST_NAME:
            raise _Broken(f"a name of {len(name)} letters")
        if isinstance(value, dict):
            if CHUNKED in value:
                value = _joined(value)
            else:
                _flatten(f"{name}/", value, stored, values)
                continue
        if name in stored or len(stored) >= MOST_TENSORS:
            raise _Broken(f"{name[:80]!r} twice, or more than {MOST_TENSORS} arrays")
        if isinstance(value, Stored):
            stored[name] = value
        elif isinstance(value, int | float | str | bool):
            values[name] = value


def _joined(node: dict[str, Any]) -> Stored:
    """An array that Flax cut into flat chunks because it was larger than a gigabyte."""
    sizes, chunks = node.get("shape"), node.get("chunks")
    if not isinstance(sizes, dict) or not isinstance(chunks, dict) or not chunks:
        raise _Broken("a chunked array without shape or chunks")
    shape = check_shape("a chunked array", "shape", [sizes.get(str(i)) for i in range(len(sizes))])
    parts = [chunks.get(str(i)) for i in range(len(chunks))]
    whole = [part for part in parts if isinstance(part, Stored)]
    if len(whole) != len(parts) or len({part.dtype for part in whole}) != 1:
        raise _Broken("chunks that are missing or of several dtypes")
    if sum(math.prod(part.shape) for part in whole) != math.prod(shape):
        raise _Broken(f"chunks that do not make up the shape {list(shape)}"[:200])
    return Stored(shape, whole[0].dtype, lambda: np.concatenate([part.read().ravel() for part in whole]).reshape(shape))
