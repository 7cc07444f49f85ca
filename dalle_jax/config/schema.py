"""What may stand where in the tree of a run: the fields of config dataclasses, their types, and values that fit them.

Types of a leaf: bool, int, float, str, Literal, ``X | None``, ``tuple[X, ...]``, ``tuple[X, Y]``. A slot holds a frozen
dataclass, or one of a closed union of them, or None where the union says so; ``@Name`` chooses.
"""

import dataclasses
import functools
import math
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, Union

from dalle_jax.config.syntax import BROKEN, Reference, Word

LARGEST_INT = 2**63 - 1

PER_HOST = {"per_host": True}
"""Metadata of a field that may differ between the hosts of one run, since it changes no number of the run."""


class _No:
    """Says that a value does not fit, or that there is none."""


NO = _No()


@dataclass(frozen=True)
class Leaf:
    """A place for a plain value."""

    annotation: Any

    @property
    def expected(self) -> str:
        """The type, in words for a message."""
        return describe(self.annotation)


@dataclass(frozen=True)
class Slot:
    """A place for an object of one of some dataclasses."""

    classes: tuple[type, ...]
    optional: bool

    @property
    def expected(self) -> str:
        """The choices, in words for a message."""
        return " or ".join([*(f"@{one.__name__}" for one in self.classes), *(["None"] if self.optional else [])])

    def named(self, value: Any) -> Any:
        """The class that a value chooses, None if it chooses none of them, ``NO`` if it is no choice of this slot."""
        name = value.name if isinstance(value, Reference) else None
        if isinstance(value, Word):
            name = value.value.name if isinstance(value.value, Reference) else value.text
            value = value.value
        if value is None and self.optional:
            return None
        return next((one for one in self.classes if one.__name__ == name), NO)


@dataclass(frozen=True)
class Field:
    """A field of a config dataclass: what fits, and the value that it has unless text says otherwise (``NO``: none).

    A field that is ``per_host`` may differ between the hosts of one run.
    """

    kind: Leaf | Slot
    default: Any
    per_host: bool = False


@functools.cache
def fields(cls: type) -> dict[str, Field]:
    """The fields of a config dataclass by name, in their order; ``TypeError`` for a type that a config cannot have."""
    hints = typing.get_type_hints(cls)
    return {
        one.name: Field(
            kind(hints[one.name], f"{cls.__name__}.{one.name}"), _default(one), one.metadata.get("per_host", False)
        )
        for one in dataclasses.fields(cls)
        if one.init
    }


def _default(one: Any) -> Any:
    if one.default_factory is not dataclasses.MISSING:
        return one.default_factory()
    return NO if one.default is dataclasses.MISSING else one.default


def kind(annotation: Any, name: str) -> Leaf | Slot:
    """What an annotation says; ``TypeError`` that speaks of ``name`` if a config cannot have it."""
    members = _members(annotation)
    classes: tuple[type, ...] = tuple(one for one in members if isinstance(one, type) and dataclasses.is_dataclass(one))
    if not classes:
        if not all(_is_leaf(one) for one in members):
            raise TypeError(f"{name}: no config can hold {annotation}; see dalle_jax/config/schema.py")
        return Leaf(annotation)
    others = [one for one in members if one not in classes]
    if others not in ([], [type(None)]) or len({one.__name__ for one in classes}) < len(classes):
        raise TypeError(f"{name}: a slot is a union of dataclasses of different names, and None; got {annotation}")
    return Slot(classes, bool(others))


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for one in typing.get_args(annotation) for member in _members(one))
    return (type(None) if annotation is None else annotation,)


def _is_leaf(annotation: Any) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        inner = [one for one in arguments if one is not Ellipsis]
        return all(_is_leaf(member) for one in inner for member in _members(one))
    return origin is Literal or annotation in (bool, int, float, str, type(None))


def fit(annotation: Any, value: Any) -> Any:
    """The value as the type wants it (an int becomes a float, a list a tuple), or ``NO``."""
    if isinstance(value, Word):
        fitting = fit(annotation, value.value)
        return fit(annotation, value.text) if fitting is NO and value.value is not None else fitting
    if value is BROKEN:
        return NO
    members = _members(annotation)
    if len(members) > 1:
        exact = [one for one in members if one is type(value)]
        return next((found for one in [*exact, *members] if (found := fit(one, value)) is not NO), NO)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return next((one for one in arguments if type(one) is type(value) and one == value), NO)
    if origin is tuple:
        return _fit_tuple(arguments, value)
    if annotation is float and type(value) is int:
        return float(value) if abs(value) <= LARGEST_INT else NO
    wrong = (
        type(value) is not members[0]
        or (type(value) is int and abs(value) > LARGEST_INT)
        or (type(value) is float and not math.isfinite(value))
    )
    return NO if wrong else value


def _fit_tuple(arguments: tuple[Any, ...], value: Any) -> Any:
    if not isinstance(value, tuple | list):
        return NO
    wanted = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
    if len(wanted) != len(value):
        return NO
    parts = tuple(fit(one, part) for one, part in zip(wanted, value, strict=True))
    return NO if any(part is NO for part in parts) else parts


def describe(annotation: Any) -> str:
    """A leaf's type as a message names it."""
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join(describe(one) for one in members)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(repr(one) for one in arguments)
    if origin is tuple:
        inner = ", ".join("..." if one is Ellipsis else describe(one) for one in arguments)
        return f"({inner}{',' * (len(arguments) == 1)})"
    names = {bool: "True or False", int: "an int", float: "a float", str: "a str", type(None): "None"}
    return names[members[0]]


def could_hold(place: Leaf | Slot, path: tuple[str, ...], value: Any) -> bool:
    """Whether the value fits at the path below the place with some choice of variants along it."""
    if isinstance(place, Leaf):
        return not path and fit(place.annotation, value) is not NO
    if not path:
        return place.named(value) is not NO
    below = (fields(one).get(path[0]) for one in place.classes)
    return any(one is not None and could_hold(one.kind, path[1:], value) for one in below)
