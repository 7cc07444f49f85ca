"""Reader of ``.npz``: a zip archive of ``.npy`` files, none of which may hold Python objects."""

import math

import numpy as np

from dalle_jax.data.formats.npy_files import MAX_HEADER_BYTES, NpyHeader, read_npy_header
from dalle_jax.pretrained.files.tensors import (
    TENSOR_BYTES,
    MappedFile,
    StoredTensor,
    Tensors,
    check_shape,
    file_error,
)
from dalle_jax.pretrained.files.zips import ZipArchive


def read_npz(file: MappedFile, archive: ZipArchive) -> Tensors:
    """Read the arrays by their names without ``.npy``. Uncompressed arrays become views of the file."""
    stored = {name.removesuffix(".npy"): _array(file, archive, name) for name in archive.names()}
    return Tensors(str(file.path), stored)


def _array(file: MappedFile, archive: ZipArchive, name: str) -> StoredTensor:
    file.budget.spend(TENSOR_BYTES)
    member = archive.members[name]
    if not name.endswith(".npy"):
        raise file_error(file.path, "nothing but .npy files", repr(name))
    header = _header(file, name, archive.content(name, MAX_HEADER_BYTES + 12))
    shape, dtype, fortran, start = header
    if header.nbytes != member.size - start:
        raise file_error(file.path, f"{name!r} of {dtype.name}{list(shape)}"[:200], f"{member.size - start} bytes")
    strides = _fortran_strides(shape) if fortran else None
    if member.compressed:

        def unpack() -> np.ndarray:
            content = archive.content(name)
            return np.frombuffer(content, dtype, offset=start).reshape(shape, order="F" if fortran else "C")

        return StoredTensor(shape, dtype, unpack)

    def view() -> np.ndarray:
        archive.check(name)
        return file.array(dtype, shape, member.start + start, strides)

    return StoredTensor(shape, dtype, view)


def _header(file: MappedFile, name: str, content: bytes) -> NpyHeader:
    try:
        header = read_npy_header(content)
    except ValueError as error:
        raise file_error(file.path, f"numbers in {name!r}", f"another array or file ({str(error)[:100]})") from error
    check_shape(file.path, name, header.shape)
    return header


def _fortran_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(math.prod(shape[:axis]) for axis in range(len(shape)))
