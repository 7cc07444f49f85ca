"""The dataclasses of one run to config text that parses back to the same run."""

import dataclasses
import math
from typing import Any

from dalle_jax.config.bind import ROOT
from dalle_jax.config.schema import Slot, fields


def render(obj: Any, per_host: bool = True) -> str:
    """Return the resolved text of a run: its variant, its leaves, then a group of lines for each of its parts.

    ``bind.loads(render(obj), type(obj)) == obj``. Raises ``TypeError`` or ``ValueError`` for what no text can say.
    With ``per_host=False`` it leaves out the fields that may differ between the hosts of one run.
    """
    groups: list[list[str]] = [[f"{ROOT} = @{type(obj).__name__}"]]
    _collect("", obj, groups, per_host)
    return "\n\n".join("\n".join(group) for group in groups if group) + "\n"


def _collect(path: str, obj: Any, groups: list[list[str]], per_host: bool) -> None:
    """Append the object's leaves to the last group and begin a new one for each part."""
    parts = []
    cls: type = type(obj)
    for name, field in fields(cls).items():
        if field.per_host and not per_host:
            continue
        place, value = f"{path}.{name}" if path else name, getattr(obj, name)
        if dataclasses.is_dataclass(value) and isinstance(field.kind, Slot):
            parts.append((place, value, len(field.kind.classes) > 1 or field.kind.optional))
        else:
            groups[-1].append(f"{place} = {literal(value)}")
    for place, value, is_choice in parts:
        groups.append([f"{place} = @{type(value).__name__}"] if is_choice else [])
        _collect(place, value, groups, per_host)


def literal(value: Any) -> str:
    """A value as gin text."""
    if isinstance(value, tuple):
        return f"({', '.join(literal(one) for one in value)}{',' if len(value) == 1 else ''})"
    if value is None or type(value) in (bool, int, str):
        return repr(value)
    if type(value) is float:
        if not math.isfinite(value):
            raise ValueError(f"a config cannot hold {value}")
        return repr(value)
    raise TypeError(f"a config cannot hold {value!r} of type {type(value).__name__}")
