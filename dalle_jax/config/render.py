"""Write the dataclasses of a run as config text that parses back to the same run."""

import dataclasses
import math
import re

from dalle_jax.config.bind import ROOT
from dalle_jax.config.schema import MISSING, Map, Slot, fields
from dalle_jax.config.sources import IDENTIFIER


def render(obj: object, per_host: bool = True) -> str:
    """Return the config text of a run: its variant, its leaves, then one group of lines for each slot.

    ``bind.loads(render(obj), type(obj)) == obj``. Raise ``TypeError`` or ``ValueError`` for a value that gin text
    cannot express. ``per_host=False`` leaves out the fields that may differ between the hosts of one run.
    """
    groups: list[list[str]] = [[f"{ROOT} = @{type(obj).__name__}"]]
    _collect("", obj, None, groups, per_host)
    return "\n\n".join("\n".join(group) for group in groups if group) + "\n"


def _collect(path: str, obj: object, base: object, groups: list[list[str]], per_host: bool) -> None:
    """Append lines for the fields of ``obj``: its leaves to the last group, and a new group for each of its slots.

    ``base`` is the object that ``bind`` takes unbound fields from, or None if it takes the defaults of the class.
    """
    slots: list[tuple[str, object, object, bool]] = []
    cls: type = type(obj)
    for name, field in fields(cls).items():
        if field.per_host and not per_host:
            continue
        place, value = f"{path}.{name}" if path else name, getattr(obj, name)
        default = field.default if base is None else getattr(base, name)
        if isinstance(field.kind, Map):
            if not value or (default is not MISSING and default):
                groups[-1].append(f"{place} = {{}}")
            entries = {_entry(place, key): entry for key, entry in value.items()}
            if isinstance(field.kind.item, Slot):
                slots += [(key, entry, None, True) for key, entry in entries.items()]
            else:
                groups[-1] += [f"{key} = {literal(entry)}" for key, entry in entries.items()]
        elif dataclasses.is_dataclass(value) and isinstance(field.kind, Slot):
            slots.append((place, value, default, len(field.kind.classes) > 1 or field.kind.optional))
        else:
            groups[-1].append(f"{place} = {literal(value)}")
    for place, value, default, is_choice in slots:
        groups.append([f"{place} = @{type(value).__name__}"] if is_choice else [])
        _collect(place, value, default if type(default) is type(value) else None, groups, per_host)


def _entry(path: str, name: object) -> str:
    if not isinstance(name, str) or not re.fullmatch(IDENTIFIER, name):
        raise ValueError(f"{path}: expected names of letters, digits and underscores, got {name!r}")
    return f"{path}.{name}"


def literal(value: object) -> str:
    """Return a plain value as gin text."""
    if isinstance(value, tuple):
        return f"({', '.join(literal(one) for one in value)}{',' if len(value) == 1 else ''})"
    if value is None or type(value) in (bool, int, str):
        return repr(value)
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"expected a value that gin text can express, got {value}")
        return repr(value)
    raise TypeError(f"expected a bool, int, float, str, tuple or None, got {value!r} of type {type(value).__name__}")
