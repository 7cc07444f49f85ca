"""``.npz``: a zip archive of ``.npy`` files, none of which may hold Python objects."""

import io
import math
from tokenize import TokenError
from typing import Any

import numpy as np

from dalle_jax.pretrained.files.tensors import MappedFile, Stored, Tensors, check_shape, refused
from dalle_jax.pretrained.files.zips import Archive

LONGEST_HEADER = 10_000


def read_npz(file: MappedFile, archive: Archive) -> Tensors:
    """Arrays by their names without ``.npy``; those that are not packed are views of the file."""
    stored = {name.removesuffix(".npy"): _array(file, archive, name) for name in archive.names()}
    return Tensors(str(file.path), stored)


def _array(file: MappedFile, archive: Archive, name: str) -> Stored:
    member = archive.members[name]
    if not name.endswith(".npy"):
        raise refused(file.path, "nothing but .npy files", repr(name))
    shape, dtype, fortran, header = _header(file, name, archive.content(name, LONGEST_HEADER))
    if math.prod(shape) * dtype.itemsize != member.size - header:
        raise refused(file.path, f"{name!r} of {dtype.name}{list(shape)}"[:200], f"{member.size - header} bytes")
    steps = _fortran_strides(shape) if fortran else None
    if member.packed:

        def unpack() -> np.ndarray:
            content = archive.content(name)
            return np.frombuffer(content, dtype, offset=header).reshape(shape, order="F" if fortran else "C")

        return Stored(shape, dtype, unpack)

    def view() -> np.ndarray:
        archive.check(name)
        return file.array(dtype, shape, member.start + header, steps)

    return Stored(shape, dtype, view)


def _header(file: MappedFile, name: str, content: bytes) -> tuple[tuple[int, ...], np.dtype, bool, int]:
    stream = io.BytesIO(content)
    read: Any = {1: np.lib.format.read_array_header_1_0, 2: np.lib.format.read_array_header_2_0}
    try:
        version = np.lib.format.read_magic(stream)
        shape, fortran, dtype = read[version[0]](stream, max_header_size=LONGEST_HEADER)
    except (ValueError, KeyError, TypeError, SyntaxError, TokenError, RecursionError, MemoryError) as error:
        raise refused(file.path, f"{name!r} to be a .npy file", f"a broken one ({str(error)[:100]})") from error
    if dtype.hasobject or dtype.kind not in "biuf":
        raise refused(file.path, f"numbers in {name!r}", f"an array of {dtype}")
    return check_shape(file.path, name, shape), dtype, fortran, stream.tell()


def _fortran_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[:axis]) for axis in range(len(shape)))
