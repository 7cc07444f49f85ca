"""Types of config fields: the slots, maps and leaves of a run, and the check that a value fits.

- A *leaf* holds a plain value: bool, int, float, str, ``Literal``, ``X | None``, ``tuple[X, ...]`` or ``tuple[X, Y]``.
- A *slot* holds a frozen dataclass of a closed union, or None if the union allows it. ``slot = @Name`` chooses.
- A *map* ``Mapping[str, X]`` holds named leaves or slots that cannot be None. ``map.NAME = ...`` adds an entry,
  ``map.NAME = None`` removes it, and ``map = {}`` removes all entries so far. Entries keep the order of first mention.

There are no lists of slots, because gin has no syntax for an index. Use a map.
"""

import dataclasses
import functools
import math
import operator
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, Literal, TypeAlias, Union

from dalle_jax.config.syntax import UNREADABLE, Plain, Reference, SetValue, Value

LARGEST_INT = 2**63 - 1

PER_HOST = {"per_host": True}
"""Metadata of a field that may differ between the hosts of one run, since it changes no number of the run."""


class Missing(Enum):
    """The type of ``MISSING``."""

    TOKEN = 0


MISSING: Final = Missing.TOKEN
"""Placeholder for a value that does not fit its field, or that is not given at all."""


@dataclass(frozen=True)
class Leaf:
    """A field that holds a plain value."""

    annotation: object

    @property
    def expected(self) -> str:
        """Describe the type for an error message."""
        return describe(self.annotation)


@dataclass(frozen=True)
class Slot:
    """A field that holds an instance of one of several dataclasses."""

    classes: tuple[type, ...]
    optional: bool

    @property
    def expected(self) -> str:
        """List the choices for an error message."""
        return " or ".join([*(f"@{cls.__name__}" for cls in self.classes), *(["None"] if self.optional else [])])

    def choice(self, value: Value) -> type | Missing | None:
        """Return the class that the value chooses, None for a legal None, or ``MISSING`` for anything else."""
        name = value.name if isinstance(value, Reference) else None
        if isinstance(value, SetValue):
            name = value.value.name if isinstance(value.value, Reference) else value.text
            value = value.value
        if value is None and self.optional:
            return None
        return next((cls for cls in self.classes if cls.__name__ == name), MISSING)


@dataclass(frozen=True)
class Map:
    """A field that holds named entries, all of one type."""

    item: Leaf | Slot

    @property
    def entry(self) -> Leaf | Slot:
        """Return the type of an entry, in which None is legal because it removes the entry."""
        if isinstance(self.item, Slot):
            return Slot(self.item.classes, optional=True)
        return Leaf(operator.or_(self.item.annotation, None))

    @property
    def entry_default(self) -> type | Missing:
        """Return the class of a new entry if only one class is possible, else ``MISSING``."""
        return self.item.classes[0] if isinstance(self.item, Slot) and len(self.item.classes) == 1 else MISSING

    @staticmethod
    def is_clear(value: Value) -> bool:
        """Return whether the value is ``{}``, which removes all entries."""
        value = value.value if isinstance(value, SetValue) else value
        return isinstance(value, dict) and not value


Kind: TypeAlias = Leaf | Slot | Map
"""The type of a config field."""


@dataclass(frozen=True)
class Field:
    """A field of a config dataclass with its default, which is ``MISSING`` for a required field.

    A ``per_host`` field may differ between the hosts of one run.
    """

    kind: Kind
    default: object
    per_host: bool = False


@functools.cache
def fields(cls: type) -> dict[str, Field]:
    """Return the fields of a config dataclass by name. Raise ``TypeError`` for a type that no config can hold."""
    hints = typing.get_type_hints(cls)
    return {
        field.name: Field(
            kind(hints[field.name], f"{cls.__name__}.{field.name}"),
            _default(field),
            field.metadata.get("per_host", False),
        )
        for field in dataclasses.fields(cls)
        if field.init
    }


def _default(field: "dataclasses.Field[object]") -> object:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return MISSING if field.default is dataclasses.MISSING else field.default


def kind(annotation: object, name: str) -> Kind:
    """Classify an annotation as leaf, slot or map. Raise ``TypeError`` if no config can hold a value of that type.

    ``name`` is the field's name in errors.
    """
    if typing.get_origin(annotation) in (dict, Mapping):
        return _map(annotation, name)
    members = _members(annotation)
    classes: tuple[type, ...] = tuple(one for one in members if isinstance(one, type) and dataclasses.is_dataclass(one))
    if not classes:
        if not all(_is_leaf(member) for member in members):
            raise TypeError(f"{name}: expected a type of config field (config/schema.py), got {annotation}")
        return Leaf(annotation)
    others = [member for member in members if member not in classes]
    if others not in ([], [type(None)]) or len({cls.__name__ for cls in classes}) < len(classes):
        raise TypeError(f"{name}: expected a union of dataclasses of different names, and None, got {annotation}")
    return Slot(classes, bool(others))


def _map(annotation: object, name: str) -> Map:
    keys, values = typing.get_args(annotation)
    if keys is not str or type(None) in _members(values) or typing.get_origin(values) in (dict, Mapping):
        raise TypeError(f"{name}: expected Mapping[str, X], with X neither None nor a Mapping, got {annotation}")
    item = kind(values, name)
    assert not isinstance(item, Map)
    return Map(item)


def _members(annotation: object) -> tuple[object, ...]:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return tuple(member for one in typing.get_args(annotation) for member in _members(one))
    return (type(None) if annotation is None else annotation,)


def _is_leaf(annotation: object) -> bool:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        inner = [one for one in arguments if one is not Ellipsis]
        return all(_is_leaf(member) for one in inner for member in _members(one))
    return origin is Literal or annotation in (bool, int, float, str, type(None))


def fit(annotation: object, value: Value) -> Plain | Missing:
    """Return the value converted to the type (int to float, list to tuple), or ``MISSING`` if it does not fit."""
    if isinstance(value, SetValue):
        fitting = fit(annotation, value.value)
        return fit(annotation, value.text) if fitting is MISSING and value.value is not None else fitting
    if value is UNREADABLE:
        return MISSING
    members = _members(annotation)
    if len(members) > 1:
        exact = [one for one in members if one is type(value)]
        return next((found for one in [*exact, *members] if (found := fit(one, value)) is not MISSING), MISSING)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is tuple:
        return _fit_tuple(arguments, value)
    if value is not None and not isinstance(value, bool | int | float | str):
        return MISSING
    if origin is Literal:
        return value if any(type(one) is type(value) and one == value for one in arguments) else MISSING
    if annotation is float and type(value) is int:
        return float(value) if abs(value) <= LARGEST_INT else MISSING
    wrong = (
        type(value) is not members[0]
        or (type(value) is int and abs(value) > LARGEST_INT)
        or (type(value) is float and not math.isfinite(value))
    )
    return MISSING if wrong else value


def _fit_tuple(arguments: tuple[object, ...], value: Value) -> Plain | Missing:
    if not isinstance(value, tuple | list):
        return MISSING
    wanted = arguments[:1] * len(value) if arguments[1:] == (Ellipsis,) else arguments
    if len(wanted) != len(value):
        return MISSING
    parts: list[Plain] = []
    for one, part in zip(wanted, value, strict=True):
        found = fit(one, part)
        if found is MISSING:
            return MISSING
        parts.append(found)
    return tuple(parts)


def describe(annotation: object) -> str:
    """Describe the type of a leaf for an error message."""
    members = _members(annotation)
    if len(members) > 1:
        return " or ".join(describe(one) for one in members)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return " or ".join(repr(one) for one in arguments)
    if origin is tuple:
        inner = ", ".join("..." if one is Ellipsis else describe(one) for one in arguments)
        return f"({inner}{',' * (len(arguments) == 1)})"
    names: dict[object, str] = {
        bool: "True or False",
        int: "an int",
        float: "a float",
        str: "a str",
        type(None): "None",
    }
    return names[members[0]]


def could_hold(kind: Kind, path: tuple[str, ...], value: Value) -> bool:
    """Return True if a field of this kind can hold the value.

    With a ``path``, return whether the field at that path inside it can.

    Any class of a slot's union may be chosen along the path.
    """
    if isinstance(kind, Leaf):
        return not path and fit(kind.annotation, value) is not MISSING
    if isinstance(kind, Map):
        return could_hold(kind.entry, path[1:], value) if path else kind.is_clear(value)
    if not path:
        return kind.choice(value) is not MISSING
    below = (fields(cls).get(path[0]) for cls in kind.classes)
    return any(field is not None and could_hold(field.kind, path[1:], value) for field in below)
