"""Gin text to statements with their lines. Only gin's parser is used: nothing is registered, imported, called or run.

A text is a list of ``name = value``, ``include 'file'`` and blocks (``name:`` and indented bindings). A value is a
Python literal, ``%MACRO``, ``@Name`` or a tuple, list or dict of these. A name in capitals defines a macro, any other
is a path in the tree of a run. After a statement that cannot be read, reading goes on with the next one, so that all
errors of a file are found together.
"""

import re
import tokenize
import warnings
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any

from gin import config_parser

from dalle_jax.config.problems import Problems, Where

DEEPEST = 50
"""Brackets within brackets, macros of macros."""

MOST_ERRORS = 30
"""Unreadable statements of one file after which reading stops."""

_TARGET = re.compile(r"\s*([A-Za-z_][\w.]*)\s*[=:]")
_TOKEN = re.compile(r"Failed to parse token '(.*)'", re.DOTALL)
_NO_START = re.compile(r"[\s)\]}'\"#\d]|$")
_WORDS = {
    "Unable to parse value.": "a value is expected",
    "Couldn't parse statement, expected ':' or '='.": "expected name = value",
    "Malformatted scope or selector.": "a name is words joined by dots, with no spaces between",
    "Unexpected token.": "expected name = value",
}


@dataclass(frozen=True)
class Reference:
    """``@Name``: the choice of a variant by the name of its class."""

    name: str
    called: bool = False

    def __repr__(self) -> str:
        """As it is written in gin."""
        return f"@{self.name}" + ("()" if self.called else "")


@dataclass(frozen=True)
class Macro:
    """``%NAME``: the value of the macro's last definition."""

    name: str

    def __repr__(self) -> str:
        """As it is written in gin."""
        return f"%{self.name}"


@dataclass(frozen=True)
class Word:
    """A value of ``--set``: what it says as gin text (``BROKEN`` when it says nothing) and the letters as typed."""

    text: str
    value: Any

    def __repr__(self) -> str:
        """As it was typed."""
        return self.text if self.value is BROKEN else show(self.value)


class _Broken:
    """The value of a statement that could not be read; what depends on it is not judged."""

    def __repr__(self) -> str:
        return "(unreadable)"


BROKEN = _Broken()


@dataclass(frozen=True)
class Binding:
    """``name = value`` at a place."""

    name: str
    value: Any
    where: Where


@dataclass(frozen=True)
class Include:
    """``include 'file'`` at a place."""

    file: str
    where: Where


class _Delegate(config_parser.ParserDelegate):
    """Turns references and macros into plain values."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def read(text: str, file: str, problems: Problems) -> Iterator[Binding | Include]:
    """Yield the statements of a text in their order; what cannot be read goes to ``problems``."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if "\0" in text:
        line = next(number for number, one in enumerate(lines, start=1) if "\0" in one)
        problems.add(Where(file, line), "a null character: this is no text file")
        problems.incomplete = True
        return
    start, errors = 0, 0
    while start < len(lines):
        if errors == MOST_ERRORS:
            problems.add(Where(file, start + 1), f"reading stops here, after {errors} statements that cannot be read")
            problems.incomplete = True
            return
        start = yield from _read_from(lines, start, file, problems)
        errors += 1


def _read_from(lines: list[str], start: int, file: str, problems: Problems) -> Generator[Binding | Include, None, int]:
    """Yield statements up to the first that cannot be read; return the index of the line to go on with."""
    parser = None
    begin = start
    with_lines = "\n".join(lines[start:]) + "\n"
    while True:
        try:
            parser = parser or config_parser.ConfigParser(with_lines, _Delegate())
            begin = start + parser.current_token.start[0] - 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # '\d' and the like
                statement = parser.parse_statement()
        except Exception as error:  # gin lets through whatever tokenize, ast and its own code raise on strange text
            begin = _first_statement(lines, begin)
            where = Where(file, _line(error, start, begin, len(lines)))
            problems.add(where, _explain(error, lines[where.line - 1], begin + 1, where.line))
            if target := _TARGET.match(lines[begin]):
                yield Binding(target[1], BROKEN, Where(file, begin + 1))
            else:
                problems.incomplete = True
            return next((i for i in range(begin + 1, len(lines)) if not _NO_START.match(lines[i])), len(lines))
        if statement is None:
            return len(lines)
        yield from _statement(statement, Where(file, start + statement.location.line_num), problems)


def _statement(statement: Any, where: Where, problems: Problems) -> Iterator[Binding | Include]:
    """Ours for one of gin's; what gin allows and a config may not do goes to ``problems``."""
    if isinstance(statement, config_parser.ImportStatement):
        problems.add(where, f"`{statement.format()}`: a config is data and imports nothing; take the line out")
    elif isinstance(statement, config_parser.IncludeStatement):
        yield Include(statement.filename, where)
    elif statement.scope:
        problems.add(where, f"scopes ({statement.scope}/) mean nothing here; write the whole path with dots")
    elif isinstance(statement, config_parser.BindingStatement):
        name = ".".join(part for part in (statement.selector, statement.arg_name) if part)
        yield Binding(name, legal_value(statement.value, where, problems), where)


def legal_value(value: Any, where: Where, problems: Problems, depth: int = 0) -> Any:
    """The value, or ``BROKEN`` with a problem for calls, scopes and brackets that are too deep."""
    if depth > DEEPEST:
        problems.add(where, f"brackets are nested more than {DEEPEST} deep")
        return BROKEN
    if isinstance(value, Reference) and value.called:
        problems.add(where, f"{value} is a call, and a config never runs anything; write @{value.name}")
        return BROKEN
    if isinstance(value, Reference | Macro) and not value.name.isidentifier():
        problems.add(where, f"{value}: expected one word after {str(value)[0]}, without scopes or module names")
        return BROKEN
    parts = (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    if any(legal_value(part, where, problems, depth + 1) is BROKEN for part in parts):
        return BROKEN
    return value


def word(text: str) -> Word:
    """The value of a ``--set``: gin text where it is, else just the letters."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statements = list(read(f"x = {text}", "", problems := Problems()))
    except RecursionError:
        return Word(text, BROKEN)
    single = len(statements) == 1 and isinstance(statements[0], Binding) and not problems.found and "\n" not in text
    return Word(text, statements[0].value if single and isinstance(statements[0], Binding) else BROKEN)


def show(value: Any) -> str:
    """The value as gin text, cut to a length that fits a message."""
    try:
        text = repr(value)
    except ValueError:  # more digits than Python is willing to print
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def _first_statement(lines: list[str], begin: int) -> int:
    """The index of the first line from ``begin`` on that is neither blank nor a comment."""
    written = (i for i in range(begin, len(lines)) if lines[i].strip() and not lines[i].lstrip().startswith("#"))
    return next(written, min(begin, len(lines) - 1))


def _line(error: Exception, start: int, begin: int, total: int) -> int:
    """The line number of an error: its own when gin gives it, else that of the statement."""
    own = error.lineno if isinstance(error, SyntaxError) else None
    return min(start + own, total) if own else begin + 1


def _explain(error: Exception, line: str, begin: int, at: int) -> str:
    """What is wrong with a statement, for its author."""
    if isinstance(error, RecursionError | MemoryError):
        what = "nested too deep"
    elif isinstance(error, tokenize.TokenError):
        what = "a bracket or a string is not closed"
    elif isinstance(error, StopIteration):
        what = "the text ends in the middle of a statement"
    elif isinstance(error, SyntaxError) and error.msg:
        token = _TOKEN.search(error.msg)
        what = _no_value(token[1]) if token else _WORDS.get(error.msg, error.msg.split("\n")[0])
    else:
        what = str(error) or type(error).__name__
    since = f" (the statement begins in line {begin})" if begin != at else ""
    line = line.strip()
    return f"cannot be read: {what}{since}, in `{line if len(line) <= 80 else line[:77] + '...'}`"


def _no_value(token: str) -> str:
    token = token if len(token) <= 40 else token[:37] + "..."
    return f"{token} is no value; text is written '{token}', a macro %{token}, a variant @{token}"
