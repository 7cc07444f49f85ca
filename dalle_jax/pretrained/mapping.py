"""Rules that map the tensors of a published file to the variables of a module, and back.

A publisher's module lists a ``Rule`` for each variable: its tensors, and the change of layout in both directions. One
list therefore serves import and export. Functions that build rules take ``ours``, a prefix of variables' names, and
``theirs``, a prefix of tensors' names. Every tensor is used once and every variable is filled. All mismatches are
reported together, before any tensor is read.
"""

import collections
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import jax
import numpy as np
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.pretrained.files.tensors import Tensors
from dalle_jax.train.state import ModuleSpec

MIN_LIMITED_ELEMENTS = 1 << 30
"""Variables with fewer elements are always checked in full. No published tensor has more elements than this."""
MAX_NAMES_SHOWN = 20
"""Largest number of tensor names in one line of an error. Further names are only counted."""


@runtime_checkable
class ArraySpec(Protocol):
    """Shape and dtype of an array, as ``jax.ShapeDtypeStruct`` has them."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Length of each axis."""
        ...

    @property
    def dtype(self) -> np.dtype:
        """Element type."""
        ...


@dataclass(frozen=True)
class Transform:
    """A change of layout: from published tensors to a variable (``forward``), and its inverse (``backward``)."""

    forward: Callable[..., np.ndarray]
    backward: Callable[[np.ndarray], tuple[np.ndarray, ...]]


IDENTITY = Transform(lambda x: x, lambda x: (x,))
TRANSPOSE = Transform(lambda x: x.T, lambda x: (x.T,))
"""The transform of torch's matrix [out in] to a kernel [in out]."""
CONV_KERNEL = Transform(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))
"""The transform of torch's convolution [out in k k] to a kernel [k k in out]."""


def reshaped(*shape: int, stored: tuple[int, ...]) -> Transform:
    """Build a reshape from the shape ``stored`` in the file to ``shape``."""
    return Transform(lambda x: x.reshape(shape), lambda x: (x.reshape(stored),))


def dense(ins: tuple[int, ...], outs: tuple[int, ...]) -> Transform:
    """Build the transform of torch's matrix [out in] to a kernel [*ins *outs]."""
    flat = (int(np.prod(ins)), int(np.prod(outs)))
    return Transform(lambda x: x.T.reshape(*ins, *outs), lambda x: (x.reshape(flat).T,))


def stacked(each: Transform, count: int, axis: int) -> Transform:
    """Build a transform that applies ``each`` to ``count`` tensors and stacks them on a new ``axis``."""
    return Transform(
        lambda *xs: np.stack([each.forward(x) for x in xs], axis),
        lambda x: tuple(each.backward(x.take(i, axis))[0] for i in range(count)),
    )


@dataclass(frozen=True)
class Rule:
    """A variable ``target`` (dotted path) and the published tensors ``sources`` that make it up."""

    target: str
    sources: tuple[str, ...]
    transform: Transform = IDENTITY


def rule(target: str, *sources: str, transform: Transform = IDENTITY) -> Rule:
    """Build a ``Rule`` with its sources as positional arguments."""
    return Rule(target, sources, transform)


Ignored: TypeAlias = Mapping[str, str]
"""A regular expression that matches the whole names of tensors, to the reason for ignoring these tensors."""


def fill(
    module: nnx.Module, tensors: Tensors, rules: Sequence[Rule], ignored: Ignored, layout: Layout | None = None
) -> dict[str, str]:
    """Fill an abstract module (from ``nnx.eval_shape``); return the unused tensors with their reasons.

    Raises UserError with every mismatch. Tensors are read one at a time and cast to the module's dtypes. Each device
    receives only its shard under ``layout``; without a layout the first device receives everything.
    """
    spec = ModuleSpec.of(module)
    matched = ignored_names(tensors, ignored)
    unused = {**tensors.skipped, **matched}
    problems = mismatches(spec.stored(), tensors, rules, matched)
    if problems:
        raise UserError("\n".join(f"{tensors.name}: {line}" for line in problems))
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = spec.shardings(layout) if layout is not None else dict.fromkeys(spec.paths, first)
    by_target = {one.target: one for one in rules}
    arrays = spec.stored()
    values = {name: _load(by_target[name], tensors, arrays[name], shardings[name]) for name in spec.paths}
    nnx.update(module, nnx.state(spec.merge(values)))
    return unused


def ignored_names(tensors: Tensors, ignored: Ignored) -> dict[str, str]:
    """Return the tensors that match an ignored pattern, with the reason of the first that matches."""
    found: dict[str, str] = {}
    for pattern, reason in ignored.items():
        found.update({name: reason for name in tensors if re.fullmatch(pattern, name) and name not in found})
    return found


def mismatches(
    targets: Mapping[str, ArraySpec], tensors: Tensors, rules: Sequence[Rule], matched: Mapping[str, str]
) -> list[str]:
    """Compare a file with the variables ``targets``; return one line for each kind of mismatch.

    ``matched`` holds the tensors that no rule has to use (``ignored_names``).
    """
    used = collections.Counter(source for one in rules for source in one.sources)
    filled = collections.Counter(one.target for one in rules)
    known = [one for one in rules if one.target in targets]
    lists = {
        "expected these tensors, which are missing": [name for name in used if name not in tensors.stored],
        "got these tensors, which no rule uses": [name for name in tensors if name not in used and name not in matched],
        "expected to use each tensor once, got these more often": [name for name, times in used.items() if times > 1],
        "expected a rule for these variables, got none": [name for name in targets if name not in filled],
        "got rules for these variables, which the model does not have or which have several": [
            name for name, times in filled.items() if name not in targets or times > 1
        ],
        "shapes or dtypes differ": [line for one in known for line in _differences(one, targets[one.target], tensors)],
    }
    return [f"{problem}: {_shorten(names)}" for problem, names in lists.items() if names]


def _differences(one: Rule, target: ArraySpec, tensors: Tensors) -> list[str]:
    """Describe the tensors of a rule whose shape or dtype is not the expected one, without reading them.

    The expected shapes come from the inverse transform of a broadcast zero. A hostile config may ask for sizes beyond
    any memory, so that step is skipped for targets much larger than the file's tensors.
    """
    parts = [tensors.stored[name].shape for name in one.sources if name in tensors.stored]
    got, expected_count = sum(math.prod(shape) for shape in parts), math.prod(target.shape)
    if expected_count > max(MIN_LIMITED_ELEMENTS, got):
        line = f"{one.target} (expected {expected_count} numbers, got {got} in {_shorten(list(one.sources))})"
        return [line] if parts else []
    whole = np.broadcast_to(np.zeros((), np.int8), target.shape)
    found = []
    for name, part in zip(one.sources, one.transform.backward(whole), strict=True):
        stored = tensors.stored.get(name)
        if stored is None:
            continue
        is_float = [np.dtype(dtype).kind in "fV" for dtype in (stored.dtype, target.dtype)]  # V: ml_dtypes' floats
        scalar = part.shape == () and stored.shape == (1,)  # some programs save a number as a vector of one
        if (stored.shape != part.shape and not scalar) or is_float[0] != is_float[1]:
            expected = f"{np.dtype(target.dtype).name}{list(part.shape)}"
            found.append(f"{name} (expected {expected}, got {stored.dtype.name}{list(stored.shape)})")
    return found


def _shorten(names: list[str]) -> str:
    rest = f", and {len(names) - MAX_NAMES_SHOWN} more" if len(names) > MAX_NAMES_SHOWN else ""
    return ", ".join(names[:MAX_NAMES_SHOWN]) + rest


def _load(one: Rule, tensors: Tensors, target: ArraySpec, sharding: jax.sharding.Sharding) -> jax.Array:
    value = one.transform.forward(*(tensors[name] for name in one.sources))
    if target.shape == ():
        value = value.reshape(())
    dtype = target.dtype
    return jax.make_array_from_callback(value.shape, sharding, lambda index: np.asarray(value[index]).astype(dtype))


def to_published(module: nnx.Module, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """Convert a module's variables to published tensors, for export. Every variable must have a rule."""
    spec = ModuleSpec.of(module)
    params, non_params = spec.split(module)
    values = {**params, **non_params}
    by_target = {one.target: one for one in rules}
    if by_target.keys() != values.keys():
        unmatched = _shorten(sorted(values.keys() ^ by_target.keys()))
        raise UserError(f"expected a rule for every variable of the model, got no match for {unmatched}")
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        arrays = by_target[name].transform.backward(np.asarray(value))
        found.update(zip(by_target[name].sources, arrays, strict=True))
    return found
