"""Fields in which two configs differ, for errors about weights of a different model."""

from collections.abc import Collection, Iterator
from dataclasses import fields, is_dataclass


def differences(path: str, expected: object, got: object, free: Collection[str] = ()) -> Iterator[str]:
    """Yield "PATH: expected A, got B" for each field below ``path`` that differs; names in ``free`` may differ."""
    if is_dataclass(expected) and type(expected) is type(got):
        for one in (one.name for one in fields(expected) if one.name not in free):
            yield from differences(f"{path}.{one}", getattr(expected, one), getattr(got, one), free)
    elif expected != got:
        yield f"{path}: expected {_shown(expected)}, got {_shown(got)}"


def _shown(value: object) -> str:
    return f"@{type(value).__name__}" if is_dataclass(value) else repr(value)
