"""From the tensors of a published file to the variables of a module: each source used once, each target filled.

A publisher's file lists ``Rule``s: which tensors make which variable, and how, in both directions, so that one list
serves import and export. Everything that does not fit is reported together, before anything is read.
"""

import collections
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from dalle_jax.config.errors import UserError
from dalle_jax.parallel.layout import Layout
from dalle_jax.pretrained.files.tensors import Tensors
from dalle_jax.train.state import ModuleSpec

FREE_NUMBERS = 1 << 30
"""As many as a published tensor may have, and a gigabyte where each takes a byte."""
SHOWN = 20
"""Of how many tensors an error tells; of the others their number."""


@dataclass(frozen=True)
class How:
    """A change of layout: sources to the target, and the target back to the sources."""

    forward: Callable[..., np.ndarray]
    backward: Callable[[np.ndarray], tuple[np.ndarray, ...]]


SAME = How(lambda x: x, lambda x: (x,))
TURNED = How(lambda x: x.T, lambda x: (x.T,))
"""torch's [out in] to our [in out]."""
KERNEL = How(lambda x: x.transpose(2, 3, 1, 0), lambda x: (x.transpose(3, 2, 0, 1),))
"""A convolution's [out in k k] to our [k k in out]."""


def shaped(*shape: int, stored: tuple[int, ...]) -> How:
    """The same numbers in the same order: ``stored`` in the file, ``shape`` here."""
    return How(lambda x: x.reshape(shape), lambda x: (x.reshape(stored),))


def dense(ins: tuple[int, ...], outs: tuple[int, ...]) -> How:
    """A matrix [out in] to a kernel [*ins *outs]."""
    flat = (int(np.prod(ins)), int(np.prod(outs)))
    return How(lambda x: x.T.reshape(*ins, *outs), lambda x: (x.reshape(flat).T,))


def stacked(each: How, count: int, axis: int) -> How:
    """``count`` sources, each changed as ``each`` says and stacked on a new ``axis`` of the target."""
    return How(
        lambda *xs: np.stack([each.forward(x) for x in xs], axis),
        lambda x: tuple(each.backward(x.take(i, axis))[0] for i in range(count)),
    )


@dataclass(frozen=True)
class Rule:
    """The variable ``target`` (by dotted path) of the tensors ``sources``."""

    target: str
    sources: tuple[str, ...]
    how: How = SAME


def rule(target: str, *sources: str, how: How = SAME) -> Rule:
    """A Rule, written shortly."""
    return Rule(target, sources, how)


Ignored = Mapping[str, str]
"""Patterns (regular expressions that match a whole name) of tensors that are not used, and why."""


def fill(
    module: nnx.Module, tensors: Tensors, rules: Sequence[Rule], ignored: Ignored, layout: Layout | None = None
) -> dict[str, str]:
    """Fills a module (abstract, from ``nnx.eval_shape``) and returns why each tensor that was not used was not.

    Raises UserError with all that does not fit. One tensor at a time is read, and each device gets its own part, as
    ``layout`` says (None: all goes to the first device); numbers are cast to the module's dtypes.
    """
    blueprint = ModuleSpec.of(module)
    left = ignored_names(tensors, ignored)
    reasons = {**tensors.left, **left}
    problems = mismatches(blueprint.stored(), tensors, rules, left)
    if problems:
        raise UserError("\n".join(f"{tensors.name}: {line}" for line in problems))
    first = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shardings = blueprint.shardings(layout) if layout is not None else dict.fromkeys(blueprint.paths, first)
    by_target = {one.target: one for one in rules}
    stored = blueprint.stored()
    values = {name: _placed(by_target[name], tensors, stored[name].dtype, shardings[name]) for name in blueprint.paths}
    nnx.update(module, nnx.state(blueprint.merge(values)))
    return reasons


def ignored_names(tensors: Tensors, ignored: Ignored) -> dict[str, str]:
    """The tensors that a pattern matches, with its reason."""
    found: dict[str, str] = {}
    for pattern, reason in ignored.items():
        found.update({name: reason for name in tensors if re.fullmatch(pattern, name) and name not in found})
    return found


def mismatches(
    targets: Mapping[str, Any], tensors: Tensors, rules: Sequence[Rule], left: Mapping[str, str]
) -> list[str]:
    """One line for each kind of thing that does not fit; none where all does."""
    used = collections.Counter(source for one in rules for source in one.sources)
    filled = collections.Counter(one.target for one in rules)
    known = [one for one in rules if one.target in targets]
    lists = {
        "expected these tensors, which are missing": [name for name in used if name not in tensors.stored],
        "got these tensors, for which there is no place": [
            name for name in tensors if name not in used and name not in left
        ],
        "expected to use a tensor once, these more often": [name for name, times in used.items() if times > 1],
        "these parts of the model are not filled": [name for name in targets if name not in filled],
        "these parts are not in the model, or filled twice": [
            name for name, times in filled.items() if name not in targets or times > 1
        ],
        "shapes and dtypes differ": [line for one in known for line in _differences(one, targets[one.target], tensors)],
    }
    return [f"{said}: {_some(names)}" for said, names in lists.items() if names]


def _differences(one: Rule, target: Any, tensors: Tensors) -> list[str]:
    """What a tensor is, and what it should be: found by taking the target's shape back, without reading.

    A config may ask for sizes that no memory holds, so this is done only where the file has about as many numbers.
    """
    parts = [tensors.stored[name].shape for name in one.sources if name in tensors.stored]
    got, wanted = sum(math.prod(shape) for shape in parts), math.prod(target.shape)
    if wanted > max(FREE_NUMBERS, got):
        return [f"{one.target} (expected {wanted} numbers, got {got} in {_some(list(one.sources))})"] if parts else []
    whole = np.broadcast_to(np.zeros((), np.int8), target.shape)
    found = []
    for name, part in zip(one.sources, one.how.backward(whole), strict=True):
        own = tensors.stored.get(name)
        if own is None:
            continue
        kinds = [np.dtype(dtype).kind in "fV" for dtype in (own.dtype, target.dtype)]  # V: ml_dtypes' own kinds
        if own.shape != part.shape or kinds[0] != kinds[1]:
            expected = f"{np.dtype(target.dtype).name}{list(part.shape)}"
            found.append(f"{name} (expected {expected}, got {own.dtype.name}{list(own.shape)})")
    return found


def _some(names: list[str]) -> str:
    rest = f", and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + rest


def _placed(one: Rule, tensors: Tensors, dtype: Any, sharding: Any) -> jax.Array:
    value = one.how.forward(*(tensors[name] for name in one.sources))
    return jax.make_array_from_callback(value.shape, sharding, lambda index: np.asarray(value[index]).astype(dtype))


def taken_back(module: nnx.Module, rules: Sequence[Rule]) -> dict[str, np.ndarray]:
    """The tensors of a file from a module's variables: what export writes. All of them must have a rule."""
    blueprint = ModuleSpec.of(module)
    params, others = blueprint.split(module)
    values = {**params, **others}
    by_target = {one.target: one for one in rules}
    if by_target.keys() != values.keys():
        raise UserError(f"no layout for these parts of the model: {_some(sorted(values.keys() ^ by_target.keys()))}")
    found: dict[str, np.ndarray] = {}
    for name, value in values.items():
        arrays = by_target[name].how.backward(np.asarray(value))
        found.update(zip(by_target[name].sources, arrays, strict=True))
    return found
