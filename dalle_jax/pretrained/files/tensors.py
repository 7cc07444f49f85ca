"""Named tensors of a file, each read when it is asked for: what every reader of this folder gives."""

import math
import mmap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from dalle_jax.config.errors import UserError

MOST_DIMENSIONS = 16
LONGEST_NAME = 1000
LARGEST = 2**63
SHOWN = 80
"""Letters of a value that a message shows."""
MOST_TENSORS = 200_000
"""Published models have up to some thousands; a file of a few bytes that names more is meant to fill the memory."""


@dataclass(frozen=True)
class Stored:
    """A tensor that lies in a file: its shape and dtype, and what reads it: as a view of the file where it can."""

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]


class Tensors(Mapping):
    """The tensors of the file ``name`` by theirs, and in ``values`` the numbers and texts that lie beside them.

    ``stored`` tells shapes and dtypes without reading; ``left`` are tensors of the file that are none of these, and
    why. Arrays are read-only. Reading one raises UserError where its bytes are damaged. (No ``Mapping[str, ndarray]``:
    what checks types in the tests would read one to look at it.)
    """

    def __init__(self, name: str, stored: Mapping[str, Stored], values: Mapping[str, Any] | None = None):
        self.name = name
        self.left: dict[str, str] = {}
        self.stored = dict(stored)
        self.values_beside = dict(values or {})

    def __getitem__(self, key: str) -> np.ndarray:
        return self.stored[key].read()

    def __contains__(self, key: object) -> bool:
        return key in self.stored  # what Mapping has would read the tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self.stored)

    def __len__(self) -> int:
        return len(self.stored)

    def under(self, prefix: str) -> "Tensors":
        """What has names that begin with ``prefix``, by the rest of its name."""
        return Tensors(
            self.name,
            {key.removeprefix(prefix): one for key, one in self.stored.items() if key.startswith(prefix)},
            {key.removeprefix(prefix): one for key, one in self.values_beside.items() if key.startswith(prefix)},
        )

    def without_wrapper(self, wrappers: tuple[str, ...] = ("state_dict", "model", "module")) -> "Tensors":
        """What a training program saved under the first of these keys that is there; all, where none is."""
        for wrapper in wrappers:
            inside = self.inside(wrapper)
            if inside.stored and not any("." not in key for key in self.stored):
                return inside
        return self

    def inside(self, wrapper: str) -> "Tensors":
        """What a training program saved under a key; what lies beside it is left, with that as the reason."""
        prefix = f"{wrapper}."
        found = self.under(prefix)
        others = (key for key in self.stored if not key.startswith(prefix))
        found.left = self.left | dict.fromkeys(others, f"beside the weights under {wrapper!r}")
        return found


class MappedFile:
    """The bytes of a file, mapped and not read; views of it outlive it."""

    def __init__(self, path: Path):
        self.path = path
        with open(path, "rb") as stream:
            try:
                self.bytes = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:  # how mmap says that a file is empty
                raise refused(path, "a file of weights", "an empty file") from error

    def __len__(self) -> int:
        return len(self.bytes)

    def array(
        self, dtype: np.dtype, shape: tuple[int, ...], start: int, strides: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """A read-only view from byte ``start`` on; ``strides`` in elements. The caller has checked that it fits."""
        if math.prod(shape) == 0:
            return np.zeros(shape, dtype)
        steps = None if strides is None else tuple(stride * dtype.itemsize for stride in strides)
        return np.ndarray(shape, dtype, buffer=self.bytes, offset=start, strides=steps)


def refused(path: Path | str, expected: str, got: str) -> UserError:
    """The one form in which a file is refused."""
    return UserError(f"{path}: expected {expected}, got {got}")


def shown(value: Any, depth: int = 2) -> str:
    """A value of a file as a message may show it: short, whatever lies in it, so that no error is itself a bomb."""
    if isinstance(value, str | bytes):
        return repr(value[:SHOWN])
    if isinstance(value, list | tuple) and depth and len(value) <= MOST_DIMENSIONS:
        return f"[{', '.join(shown(one, depth - 1) for one in value)}]"[:SHOWN]
    if isinstance(value, int | float) and abs(value) >= LARGEST:
        return "a huge number"
    return repr(value) if isinstance(value, int | float | None) else f"a {type(value).__name__}"


def whole_number(value: Any) -> bool:
    """Whether it is an int that a size may be: not negative, of 63 bits, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < LARGEST


def check_shape(path: Path | str, name: str, shape: Any) -> tuple[int, ...]:
    """A shape as a tuple, refused where it is none."""
    if not isinstance(shape, list | tuple) or not all(whole_number(size) for size in shape):
        raise refused(path, f"the shape of {name!r} to be whole numbers", shown(shape))
    if len(shape) > MOST_DIMENSIONS:
        raise refused(path, f"{name!r} to have {MOST_DIMENSIONS} dimensions at most", str(len(shape)))
    return tuple(shape)


def check_name(path: Path | str, name: Any) -> str:
    """A tensor's or member's name, refused where it is none or leads out of a folder."""
    if not isinstance(name, str) or not name or len(name) > LONGEST_NAME or not name.isprintable():
        raise refused(path, "names of letters", shown(name))
    if name.startswith("/") or "\\" in name or ".." in name.split("/") or name[1:3] == ":/":
        raise refused(path, "names without a path out of the file", repr(name)[:80])
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
"""By the names that numpy, torch and Flax share; all little-endian."""
