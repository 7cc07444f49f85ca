"""Locations in config text, and the list of problems that is reported at once."""

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeVar, runtime_checkable

from dalle_jax.config.errors import UserError

MAX_REPORTED = 50
"""Largest number of lines in one report. Further problems are only counted."""


@dataclass(frozen=True)
class Location:
    """A line of a file, or a ``--set`` argument, which has line 0. ``order`` is the number of the statement."""

    file: str
    line: int
    order: int = 0

    def __str__(self) -> str:
        """Return ``file:line``, which editors and terminals turn into a link."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass
class Problems:
    """Mistakes found in config text, which are raised together.

    ``incomplete`` is True if some text was unreadable; a value that seems missing may be in that text.
    """

    found: list[tuple[Location, str]] = field(default_factory=list)
    incomplete: bool = False

    def add(self, where: Location, text: str) -> None:
        """Add one problem."""
        self.found.append((where, text))

    @property
    def unless(self) -> str:
        """Return a clause for messages about a missing value: unreadable text may set it. Empty if there is none."""
        return " (unless the text that could not be read sets it)" if self.incomplete else ""

    def lines(self) -> list[str]:
        """Return one printable line for each distinct problem, by file and line, ``--set`` last."""
        ordered = sorted(self.found, key=lambda one: (one[0].line == 0, one[0].file, one[0].line))
        unique = list(dict.fromkeys(printable(f"{where}: {text}") for where, text in ordered))
        more = len(unique) - MAX_REPORTED
        return unique[:MAX_REPORTED] + ([f"and {more} more problems"] if more > 0 else [])

    def raise_if_any(self) -> None:
        """Raise one ``UserError`` with a line for each problem, if there is any."""
        if self.found:
            raise UserError("\n".join(self.lines()))


def printable(text: str) -> str:
    """Escape control characters, line breaks and lone surrogates."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def did_you_mean(name: str, legal: Iterable[str], prefix: str = "") -> str:
    """Return ``; did you mean a or b?`` for the legal names most similar to ``name``, or an empty string."""
    by_fold = {one.casefold(): one for one in legal}
    typed = name[:200].casefold()
    close = difflib.get_close_matches(typed, list(by_fold), n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, one, typed).ratio() for one in close]
    close = [one for one, like in zip(close, likeness, strict=True) if like > likeness[0] - 0.06]
    return f"; did you mean {' or '.join(prefix + by_fold[one] for one in close)}?" if close else ""


@runtime_checkable
class Named(Protocol):
    """An object with a name, such as a command."""

    @property
    def name(self) -> str:
        """Return the name that a user types."""


AnyNamed = TypeVar("AnyNamed", bound=Named)


def find_named(name: str, choices: Sequence[AnyNamed], kind: str) -> AnyNamed:
    """Return the choice of that name. Raises ``UserError`` with similar names, or with all names if none is similar.

    ``kind`` describes the choices in the message, such as "a command".
    """
    by_name = {choice.name: choice for choice in choices}
    if name not in by_name:
        hint = did_you_mean(name, by_name) or f"; the choices are {', '.join(by_name)}"
        raise UserError(f"expected {kind}, got {name!r}{hint}")
    return by_name[name]
