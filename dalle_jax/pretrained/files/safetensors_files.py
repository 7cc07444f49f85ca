"""Reader and writer of ``.safetensors``: the header's length in eight bytes, the header in JSON, then the numbers."""

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dalle_jax import storage
from dalle_jax.pretrained.files.tensors import (
    DTYPES,
    MAX_TENSORS,
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
from dalle_jax.untrusted import parse_json

MAX_HEADER_BYTES = 100_000_000
"""Largest size of a header, in bytes, as in the format's own reader."""

NAMES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U64": "uint64", "U32": "uint32", "U16": "uint16", "U8": "uint8", "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip


def read_safetensors(file: MappedFile) -> Tensors:
    """Read the tensors. Raise UserError if there are gaps or overlaps between the header and the tensors."""
    header, start = _header(file)
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or len(header) > MAX_TENSORS:
        expected = f"__metadata__ to be an object, and at most {MAX_TENSORS} tensors"
        raise file_error(file.path, expected, f"{short_repr(metadata)} and {len(header)} tensors")
    stored: dict[str, StoredTensor] = {}
    spans = []
    for name, entry in header.items():
        file.budget.spend(TENSOR_BYTES)
        stored[check_name(file.path, name)], span = _entry(file, name, entry, start)
        spans.append((*span, name))
    end = 0
    for begin, after, name in sorted(spans):
        if begin != end:
            kind = "overlaps another" if begin < end else "leaves a gap"
            raise file_error(file.path, "tensors without gaps or overlaps", f"{name!r}, which {kind} at byte {begin}")
        end = after
    if start + end != len(file):
        raise file_error(file.path, f"{start + end} bytes", f"{len(file)}: it is cut off or has a tail")
    scalars = {name: value for name, value in metadata.items() if isinstance(value, Scalar)}
    return Tensors(str(file.path), stored, scalars)


def _header(file: MappedFile) -> tuple[dict[str, object], int]:
    """Return the parsed header, and the position of the first byte after it."""
    head = file.bytes[:8]
    length = struct.unpack("<Q", head)[0] if len(head) == 8 else 0
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(file) - 8):
        raise file_error(
            file.path, "the length of its header in the first 8 bytes", f"{length} in a file of {len(file)} bytes"
        )

    try:
        header = parse_json(file.bytes[8 : 8 + length], file.budget, unique_names=True)
    except ValueError as error:
        raise file_error(file.path, "a header in JSON", f"other content ({str(error)[:100]})") from error
    if not isinstance(header, dict):
        raise file_error(file.path, "a header that is an object in JSON", type(header).__name__)
    return header, 8 + length


def _entry(file: MappedFile, name: str, entry: object, start: int) -> tuple[StoredTensor, tuple[int, int]]:
    """Parse the header's entry of a tensor into the tensor and its span of bytes."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise file_error(file.path, f"dtype, shape and data_offsets of {name!r}", short_repr(entry))
    if not isinstance(entry["dtype"], str) or entry["dtype"] not in NAMES:
        raise file_error(file.path, f"a known dtype for {name!r}", short_repr(entry["dtype"]))
    dtype = DTYPES[NAMES[entry["dtype"]]]
    shape, span = check_shape(file.path, name, entry["shape"]), entry["data_offsets"]
    if not isinstance(span, list) or len(span) != 2 or not all(is_size(one) for one in span):
        raise file_error(file.path, f"two offsets of {name!r}", short_repr(span))
    begin, end = span
    if end - begin != math.prod(shape) * dtype.itemsize or start + end > len(file):
        raise file_error(
            file.path, f"{name!r} of {dtype.name}{list(shape)} in the file"[:200], f"bytes {begin} to {end}"
        )
    return StoredTensor(shape, dtype, lambda: file.array(dtype, shape, start + begin)), (begin, end)


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> None:
    """Write tensors atomically, with the strings ``metadata`` in the header."""
    codes = {DTYPES[name]: code for code, name in NAMES.items()}
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    content, at = [], 0
    for name, value in tensors.items():
        array = np.ascontiguousarray(value).reshape(value.shape)
        header[name] = {
            "dtype": codes[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [at, at + array.nbytes],
        }
        content.append(array)
        at += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    storage.write(path, b"".join([struct.pack("<Q", len(text)), text, *(array.tobytes() for array in content)]))
