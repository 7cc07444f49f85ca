"""Named tensors of weight files, read on access, and the checks that every reader shares."""

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeGuard

import ml_dtypes
import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.untrusted import Budget, open_file

MAX_DIMENSIONS = 16
MAX_NAME_LENGTH = 1000
SIZE_LIMIT = 2**63
MAX_REPR_LENGTH = 80
"""Largest number of characters of a value that an error message quotes."""
TENSOR_BYTES = 1000
"""Bytes of memory that are spent for a tensor's name, shape and reader."""
MAX_TENSORS = 200_000
"""Largest number of tensors in a file.

Published models have up to a few thousand tensors. Without a limit, a small file that names too many would exhaust
memory.
"""

Scalar: TypeAlias = int | float | str | bool


@dataclass(frozen=True)
class StoredTensor:
    """Shape and dtype of a tensor in a file, and a function that reads it, as a view of the file if possible."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Tensors(Mapping):
    """Tensors by name, each read on access. ``name`` is the file's name.

    - ``stored``: shapes and dtypes, known without reading.
    - ``scalars``: numbers and strings that the file holds next to its tensors.
    - ``skipped``: tensors of the file that this mapping leaves out, with the reason.
    - ``prefix``: the prefix that was stripped from the names in the file.

    Arrays are read-only. Reading a tensor raises UserError if its bytes are damaged. The base is not
    ``Mapping[str, ndarray]`` because the type checker of the tests would read a tensor to check it.
    """

    def __init__(self, name: str, stored: Mapping[str, StoredTensor], scalars: Mapping[str, Scalar] | None = None):
        self.name = name
        self.skipped: dict[str, str] = {}
        self.prefix = ""
        self.stored = dict(stored)
        self.scalars = dict(scalars or {})

    def __getitem__(self, key: str) -> np.ndarray:
        return self.stored[key].read()

    def __contains__(self, key: object) -> bool:
        return key in self.stored  # Mapping's own method would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def add(self, prefix: str, other: "Tensors") -> None:
        """Add the tensors of another file under ``prefix``. Raises UserError for a name that is here already."""
        for name, one in other.stored.items():
            if prefix + name in self.stored:
                raise file_error(other.name, "every tensor once", f"{name!r} twice")
            self.stored[prefix + name] = one
        self.skipped |= {prefix + name: reason for name, reason in other.skipped.items()}
        self.prefix = self.prefix or other.prefix

    def under(self, prefix: str) -> "Tensors":
        """Select the names that begin with ``prefix``, and strip it from them."""
        return Tensors(
            self.name,
            {key.removeprefix(prefix): one for key, one in self.stored.items() if key.startswith(prefix)},
            {key.removeprefix(prefix): one for key, one in self.scalars.items() if key.startswith(prefix)},
        )


class MappedFile:
    """A memory-mapped file, and the budget of reading it; arrays that view it keep it mapped."""

    def __init__(self, path: Path):
        self.path = path
        with open_file(path) as stream:
            try:
                self.bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:  # mmap raises this for an empty file
                raise file_error(path, "a file of weights", "an empty file") from error
        self.budget = Budget(len(self.bytes))

    def __len__(self) -> int:
        return len(self.bytes)

    def array(
        self, dtype: np.dtype, shape: tuple[int, ...], start: int, strides: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """Return a read-only view that begins at byte ``start``; ``strides`` count elements.

        The caller has checked that the view lies inside the file.
        """
        if math.prod(shape) == 0:
            return np.zeros(shape, dtype)
        steps = None if strides is None else tuple(stride * dtype.itemsize for stride in strides)
        return np.ndarray(shape, dtype, buffer=self.bytes, offset=start, strides=steps)


def file_error(path: Path | str, expected: str, got: str) -> UserError:
    """Build the error for a file that is not as expected."""
    return UserError(f"{path}: expected {expected}, got {got}")


def short_repr(value: object, depth: int = 2) -> str:
    """Quote an untrusted value in bounded length and time, for an error message."""
    if isinstance(value, str | bytes):
        return repr(value[:MAX_REPR_LENGTH])
    if isinstance(value, list | tuple) and depth and len(value) <= MAX_DIMENSIONS:
        return f"[{', '.join(short_repr(one, depth - 1) for one in value)}]"[:MAX_REPR_LENGTH]
    if isinstance(value, int | float) and abs(value) >= SIZE_LIMIT:
        return "a huge number"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


def is_size(value: object) -> TypeGuard[int]:
    """Return True if a value is an int from 0 to 2**63 - 1. A bool is not a size."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < SIZE_LIMIT


def check_shape(path: Path | str, name: str, shape: object) -> tuple[int, ...]:
    """Return a valid shape as a tuple; raise UserError for an invalid one."""
    if isinstance(shape, list | tuple) and len(shape) > MAX_DIMENSIONS:
        raise file_error(path, f"{name!r} to have {MAX_DIMENSIONS} dimensions at most", str(len(shape)))
    if not isinstance(shape, list | tuple) or not all(is_size(size) for size in shape):
        raise file_error(path, f"the shape of {name!r} to be whole numbers", short_repr(shape))
    return tuple(shape)


def check_name(path: Path | str, name: object) -> str:
    """Return a valid name of a tensor or archive member; raise UserError for one that is empty or leaves its folder."""
    if not isinstance(name, str) or not name or len(name) > MAX_NAME_LENGTH or not name.isprintable():
        raise file_error(path, f"names of 1 to {MAX_NAME_LENGTH} printable characters", short_repr(name))
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or name[1:3] == ":/":
        raise file_error(path, "names without a path out of the file", repr(name)[:80])
    return name


DTYPES: dict[str, np.dtype] = {
    **{name: np.dtype(name).newbyteorder("<") for name in ("float64", "float32", "float16", "bool")},
    **{
        f"{sign}int{bits}": np.dtype(f"{sign}int{bits}").newbyteorder("<")
        for sign in ("", "u")
        for bits in (8, 16, 32, 64)
    },
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
}
"""Little-endian dtypes by the names that numpy, torch and Flax share."""
