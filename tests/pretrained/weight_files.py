"""Hand-written weight files in the formats of torch, safetensors and Flax, any part of which can be made wrong."""

import io
import json
import pickle
import struct
import zipfile
from pathlib import Path

import numpy as np

MAGIC = 0x1950A86A20F9469CFC6C


class Raw:
    """An object that pickles as a call of ``module.name`` with the arguments."""

    def __init__(self, module: str, name: str, *arguments):
        self.module, self.name, self.arguments = module, name, arguments


class Reference:
    """A persistent id."""

    def __init__(self, value):
        self.value = value


def text(value: str) -> bytes:
    content = value.encode()
    return b"X" + struct.pack("<I", len(content)) + content


def encoded(value) -> bytes:
    """Pickle in protocol 2 without Python's pickler, which would import the names."""
    if isinstance(value, Raw):
        return named(value.module, value.name) + encoded(value.arguments) + b"R"
    if isinstance(value, Reference):
        return encoded(value.value) + b"Q"
    if isinstance(value, tuple) and value and value[0] == "GLOBAL":
        return named(*value[1:])
    if isinstance(value, tuple):
        return b"(" + b"".join(map(encoded, value)) + b"t"
    if isinstance(value, dict):
        return b"}(" + b"".join(encoded(one) for pair in value.items() for one in pair) + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(encoded, value)) + b"e"
    if isinstance(value, str):
        return text(value)
    return pickle.dumps(value, protocol=2)[2:-1]


def named(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def pickled(value) -> bytes:
    return b"\x80\x02" + encoded(value) + b"."


KINDS = {"float32": "FloatStorage", "float16": "HalfStorage", "bfloat16": "BFloat16Storage", "int64": "LongStorage"}


def tensor(key: str, dtype: str, size: int, shape, strides, offset=0, old=False):
    reference = ("storage", ("GLOBAL", "torch", KINDS[dtype]), key, "cpu", size, *((None,) if old else ()))
    hooks = Raw("collections", "OrderedDict")
    arguments = (Reference(reference), offset, tuple(shape), tuple(strides), False, hooks)
    return Raw("torch._utils", "_rebuild_tensor_v2", *arguments)


def torch_zip(path: Path, root, storages: dict[str, bytes], *, body: bytes | None = None, compressed=False) -> Path:
    kind = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("archive/data.pkl", pickled(root) if body is None else body)
        archive.writestr("archive/byteorder", "little")
        for key, content in storages.items():
            archive.writestr(f"archive/data/{key}", content)
    return path


def torch_old(path: Path, root, storages: dict[str, np.ndarray]) -> Path:
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    body = b"".join(pickle.dumps(one, protocol=2) for one in (MAGIC, 1001, system)) + pickled(root)
    body += pickle.dumps(list(storages), protocol=2)
    for array in storages.values():
        body += struct.pack("<q", array.size) + array.tobytes()
    path.write_bytes(body)
    return path


def safetensors(path: Path, header, content: bytes) -> Path:
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + content)
    return path


def flax_array(array: np.ndarray) -> bytes:
    """Pack an array as Flax does, in an extension of type 1."""
    import msgpack

    inside = msgpack.packb((array.shape, array.dtype.name, array.tobytes()))
    return msgpack.packb(msgpack.ExtType(1, inside))


def flax_map(parts: dict[str, bytes]) -> bytes:
    import msgpack

    return bytes([0x80 | len(parts)]) + b"".join(msgpack.packb(key) + value for key, value in parts.items())


def npz(**arrays) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()
