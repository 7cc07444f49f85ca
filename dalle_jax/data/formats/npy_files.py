"""Headers of ``.npy`` files, checked without numpy: some dtypes that a header can name end the process in numpy.

Layout: numpy.lib.format, "Format Version 1.0" to "3.0". The header is the text of a Python dict.
"""

import ast
import math
import re
import struct
from typing import NamedTuple

import numpy as np

MAX_HEADER_BYTES = 10_000
MAX_DIMENSIONS = 32
_MAGIC = b"\x93NUMPY"
_DESCRIPTION = re.compile(r"[<>|=]?(?:[iu][1248]|f[248]|b1)")
_LONG = re.compile(r"(?<=\d)L")


class NpyHeader(NamedTuple):
    """Shape and dtype of an array, its order, and the position of its first number."""

    shape: tuple[int, ...]
    dtype: np.dtype
    fortran: bool
    start: int

    @property
    def nbytes(self) -> int:
        """The size of the numbers in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_npy_header(content: bytes) -> NpyHeader:
    """Parse the header at the beginning of ``content``.

    Raise ValueError if it is broken, longer than ``MAX_HEADER_BYTES``, or of an array that is not of plain numbers.
    """
    if content[: len(_MAGIC)] != _MAGIC or len(content) < 12 or not 1 <= content[6] <= 3:
        raise ValueError(f"expected a .npy file of version 1 to 3, got {content[:8]!r}")
    form = "<H" if content[6] == 1 else "<I"
    (length,) = struct.unpack_from(form, content, 8)
    start = 8 + struct.calcsize(form)
    if length > MAX_HEADER_BYTES or len(content) < start + length:
        raise ValueError(f"expected a header of at most {MAX_HEADER_BYTES} bytes in the file, got {length}")
    try:
        found = ast.literal_eval(_LONG.sub("", content[start : start + length].decode("utf-8").strip()))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError("expected a dict in the header, got other text") from error
    if not isinstance(found, dict) or found.keys() != {"descr", "fortran_order", "shape"}:
        raise ValueError("expected descr, fortran_order and shape in the header, got other names")
    kind, shape, fortran = found["descr"], found["shape"], found["fortran_order"]
    if not isinstance(kind, str) or not _DESCRIPTION.fullmatch(kind):
        raise ValueError(f"expected plain numbers, got the dtype {repr(kind)[:60]}")
    if not isinstance(shape, tuple) or len(shape) > MAX_DIMENSIONS or not isinstance(fortran, bool):
        raise ValueError("expected a tuple as shape and a bool as fortran_order")
    if not all(type(side) is int and 0 <= side < 2**63 for side in shape):
        raise ValueError("expected whole numbers in the shape")
    return NpyHeader(shape, np.dtype(kind), fortran, start + length)


def read_npy_array(content: bytes) -> np.ndarray:
    """Return the array of a whole ``.npy`` file. Raise ValueError as ``read_npy_header`` does, or for another size."""
    header = read_npy_header(content)
    if header.nbytes != len(content) - header.start:
        raise ValueError(f"expected {header.nbytes} bytes of numbers, got {len(content) - header.start}")
    flat = np.frombuffer(content, header.dtype, offset=header.start)
    return flat.reshape(header.shape, order="F" if header.fortran else "C").copy()
