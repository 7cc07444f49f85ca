"""Reader of ``.npz``: a zip archive of ``.npy`` files, none of which may hold Python objects."""

import io
import math
from collections.abc import Callable
from tokenize import TokenError

import numpy as np

from dalle_jax.pretrained.files.tensors import MappedFile, StoredTensor, Tensors, check_shape, file_error
from dalle_jax.pretrained.files.zips import ZipArchive

MAX_HEADER_BYTES = 10_000
HEADER_READERS: dict[int, Callable[..., tuple[tuple[int, ...], bool, np.dtype]]] = {
    1: np.lib.format.read_array_header_1_0,
    2: np.lib.format.read_array_header_2_0,
}
"""Numpy's header readers by the format's major version."""


def read_npz(file: MappedFile, archive: ZipArchive) -> Tensors:
    """Read the arrays by their names without ``.npy``. Uncompressed arrays become views of the file."""
    stored = {name.removesuffix(".npy"): _array(file, archive, name) for name in archive.names()}
    return Tensors(str(file.path), stored)


def _array(file: MappedFile, archive: ZipArchive, name: str) -> StoredTensor:
    member = archive.members[name]
    if not name.endswith(".npy"):
        raise file_error(file.path, "nothing but .npy files", repr(name))
    shape, dtype, fortran, header = _header(file, name, archive.content(name, MAX_HEADER_BYTES))
    if math.prod(shape) * dtype.itemsize != member.size - header:
        raise file_error(file.path, f"{name!r} of {dtype.name}{list(shape)}"[:200], f"{member.size - header} bytes")
    strides = _fortran_strides(shape) if fortran else None
    if member.compressed:

        def unpack() -> np.ndarray:
            content = archive.content(name)
            return np.frombuffer(content, dtype, offset=header).reshape(shape, order="F" if fortran else "C")

        return StoredTensor(shape, dtype, unpack)

    def view() -> np.ndarray:
        archive.check(name)
        return file.array(dtype, shape, member.start + header, strides)

    return StoredTensor(shape, dtype, view)


def _header(file: MappedFile, name: str, content: bytes) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    """Parse a ``.npy`` header into shape, dtype, Fortran order and the header's length in bytes."""
    stream = io.BytesIO(content)
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = HEADER_READERS[version[0]](stream, max_header_size=MAX_HEADER_BYTES)
    except (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise file_error(file.path, f"{name!r} to be a .npy file", f"a broken one ({str(error)[:100]})") from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise file_error(file.path, f"numbers in {name!r}", f"an array of {dtype}")
    return check_shape(file.path, name, shape), dtype, fortran, stream.tell()


def _fortran_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[:axis]) for axis in range(len(shape)))
