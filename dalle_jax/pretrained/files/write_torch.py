"""Writer of a state dict in torch's zip format, without torch.

The pickle holds only names, shapes and storages, so ``torch.load(weights_only=True)`` accepts it.
"""

import pickle
import struct
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

STORAGES = {
    "float32": "FloatStorage", "float16": "HalfStorage", "float64": "DoubleStorage", "bfloat16": "BFloat16Storage",
    "int64": "LongStorage", "int32": "IntStorage",
}  # fmt: skip
HEADER_BYTES = 30
ALIGNMENT = 64


def write_state_dict(path: Path, tensors: Mapping[str, np.ndarray], key: str = "state_dict") -> None:
    """Write ``{key: {name: tensor}}`` to a temporary file, then rename it to ``path``."""
    temporary = path.with_name(f"{path.name}.part")
    with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle_state_dict(tensors, key))
        archive.writestr("archive/byteorder", "little")
        for number, value in enumerate(tensors.values()):
            _write_aligned(archive, f"archive/data/{number}", np.ascontiguousarray(value).tobytes())
        archive.writestr("archive/version", "3\n")
    temporary.replace(path)


def _write_aligned(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """Write a member whose header is padded as by torch. The content is then aligned, and a reader can map it."""
    info = zipfile.ZipInfo(name)
    start = archive.start_dir + HEADER_BYTES + len(name)
    padding = -(start + 4) % ALIGNMENT
    info.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
    archive.writestr(info, content)


def pickle_state_dict(tensors: Mapping[str, np.ndarray], key: str) -> bytes:
    """Pickle ``{key: OrderedDict of tensors}`` in protocol 2."""
    dictionary = _global("collections", "OrderedDict") + pickle.EMPTY_TUPLE + pickle.REDUCE
    items = b"".join(
        _text(name) + _tensor(str(number), value, dictionary) for number, (name, value) in enumerate(tensors.items())
    )
    inside = dictionary + pickle.MARK + items + pickle.SETITEMS
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + _text(key) + inside + pickle.SETITEM + pickle.STOP


def _tensor(number: str, value: np.ndarray, dictionary: bytes) -> bytes:
    storage = _tuple(
        _text("storage"), _global("torch", STORAGES[value.dtype.name]), _text(number), _text("cpu"), _int(value.size)
    )
    strides = [int(np.prod(value.shape[dimension + 1 :], dtype=np.int64)) for dimension in range(value.ndim)]
    arguments = _tuple(
        storage + pickle.BINPERSID, _int(0), _ints(value.shape), _ints(strides), pickle.NEWFALSE, dictionary
    )
    return _global("torch._utils", "_rebuild_tensor_v2") + arguments + pickle.REDUCE


def _global(module: str, name: str) -> bytes:
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def _text(text: str) -> bytes:
    content = text.encode()
    return pickle.BINUNICODE + struct.pack("<I", len(content)) + content


def _int(value: int) -> bytes:
    return pickle.LONG1 + b"\x08" + struct.pack("<q", value)


def _tuple(*parts: bytes) -> bytes:
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def _ints(values: Iterable[int]) -> bytes:
    return _tuple(*map(_int, values))
