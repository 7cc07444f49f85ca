"""Where a piece of config text stands, and the list of everything that is wrong with it, reported at once."""

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field

from dalle_jax.config.errors import UserError

MOST_REPORTED = 50
"""Lines of one report; what goes beyond is counted."""


@dataclass(frozen=True)
class Where:
    """A line of a file, or the argument of one ``--set`` (then ``line`` is 0). ``order`` counts statements as read."""

    file: str
    line: int
    order: int = 0

    def __str__(self) -> str:
        """``file:line`` as editors and terminals understand it."""
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass
class Problems:
    """Collects what is wrong; ``incomplete`` says that text was lost, and with it perhaps what seems missing."""

    found: list[tuple[Where, str]] = field(default_factory=list)
    incomplete: bool = False

    def add(self, where: Where, text: str) -> None:
        """Remember one problem."""
        self.found.append((where, text))

    @property
    def unless(self) -> str:
        """What to add to a report of something missing."""
        return " (unless what could not be read does it)" if self.incomplete else ""

    def lines(self) -> list[str]:
        """One printable line for each problem, by file and line, those of ``--set`` last, none twice."""
        ordered = sorted(self.found, key=lambda one: (one[0].line == 0, one[0].file, one[0].line))
        unique = list(dict.fromkeys(printable(f"{where}: {text}") for where, text in ordered))
        more = len(unique) - MOST_REPORTED
        return unique[:MOST_REPORTED] + ([f"and {more} more of these"] if more > 0 else [])

    def raise_if_any(self) -> None:
        """Raise one ``UserError`` that holds a line for each problem; do nothing when there is none."""
        if self.found:
            raise UserError("\n".join(self.lines()))


def printable(text: str) -> str:
    """The text with control characters, line breaks and lone surrogates written as escapes."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text)


def near(name: str, legal: Iterable[str], prefix: str = "") -> str:
    """``; did you mean a or b?`` for the legal names that look like ``name``, or an empty string."""
    by_fold = {one.casefold(): one for one in legal}
    typed = name[:200].casefold()
    close = difflib.get_close_matches(typed, list(by_fold), n=3, cutoff=0.6)
    likeness = [difflib.SequenceMatcher(None, one, typed).ratio() for one in close]
    close = [one for one, like in zip(close, likeness, strict=True) if like > likeness[0] - 0.06]
    return f"; did you mean {' or '.join(prefix + by_fold[one] for one in close)}?" if close else ""
