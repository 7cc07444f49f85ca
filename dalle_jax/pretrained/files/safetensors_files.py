"""``.safetensors``: eight bytes that say how long the header is, the header as JSON, then the numbers."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dalle_jax import storage
from dalle_jax.pretrained.files.tensors import (
    DTYPES,
    MOST_TENSORS,
    MappedFile,
    Stored,
    Tensors,
    check_name,
    check_shape,
    refused,
    whole_number,
)

LONGEST_HEADER = 100_000_000
"""As the format's own reader has it."""

NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def read_safetensors(file: MappedFile) -> Tensors:
    """Tensors that lie side by side, without gaps, behind the header; else one refusal."""
    header, start = _header(file)
    beside = header.pop("__metadata__", {})
    if not isinstance(beside, dict) or len(header) > MOST_TENSORS:
        raise refused(file.path, "the header of a .safetensors file", "one with odd __metadata__ or too many tensors")
    stored: dict[str, Stored] = {}
    spans = []
    for name, entry in header.items():
        stored[check_name(file.path, name)], span = _entry(file, name, entry, start)
        spans.append((*span, name))
    end = 0
    for begin, after, name in sorted(spans):
        if begin != end:
            kind = "overlaps another" if begin < end else "leaves a gap"
            raise refused(file.path, "tensors one behind another", f"{name!r}, which {kind} at byte {begin}")
        end = after
    if start + end != len(file):
        raise refused(file.path, f"{start + end} bytes", f"{len(file)}: it is cut off or has a tail")
    return Tensors(str(file.path), stored, beside)


def _header(file: MappedFile) -> tuple[dict[str, Any], int]:
    head = file.bytes[:8]
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(LONGEST_HEADER, len(file) - 8):
        raise refused(file.path, "the length of its header first", f"{length} in a file of {len(file)} bytes")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            raise ValueError("one name twice")
        return dict(pairs)

    try:
        header = json.loads(file.bytes[8 : 8 + length].decode("utf-8"), object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise refused(file.path, "a header in JSON", f"something else ({str(error)[:100]})") from error
    if not isinstance(header, dict):
        raise refused(file.path, "a header with names", type(header).__name__)
    return header, 8 + length


def _entry(file: MappedFile, name: str, entry: Any, start: int) -> tuple[Stored, tuple[int, int]]:
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise refused(file.path, f"dtype, shape and data_offsets of {name!r}", repr(entry)[:80])
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in NAMES:
        raise refused(file.path, f"a known dtype for {name!r}", repr(entry["dtype"])[:80])
    dtype = DTYPES[NAMES[entry["dtype"]]]
    shape, span = check_shape(file.path, name, entry["shape"]), entry["data_offsets"]
    if not isinstance(span, list) or len(span) != 2 or not all(whole_number(one) for one in span):
        raise refused(file.path, f"two offsets of {name!r}", repr(span)[:80])
    begin, end = span
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > len(file):
        raise refused(file.path, f"{name!r} of {dtype.name}{list(shape)} in the file"[:200], f"bytes {begin} to {end}")
    return Stored(shape, dtype, lambda: file.array(dtype, shape, start + begin)), (begin, end)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], beside: Mapping[str, str]) -> None:
    """Writes the file aside and renames it; ``beside`` are the texts that its header carries."""
    letters = {DTYPES[name]: code for code, name in NAMES.items()}
    header: dict[str, Any] = {"__metadata__": dict(beside)}
    content, at = [], 0
    for name, value in tensors.items():
        array = np.ascontiguousarray(value).reshape(value.shape)
        header[name] = {
            "dtype": letters[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        content.append(array)
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    storage.write(path, b"".join([struct.pack("<Q", len(text)), text, *(array.tobytes() for array in content)]))
