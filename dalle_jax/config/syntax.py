"""Parse gin text into statements with line numbers. Only gin's parser is used; no code is imported or run.

A text consists of ``name = value``, ``include 'file'`` and blocks (``name:`` followed by indented bindings). A value is
a Python literal, ``%MACRO``, ``@Name``, or a tuple, list or dict of these. A name in capitals defines a macro. Any
other name is a path in the tree of a run. After an unreadable statement the parser continues with the next one, so
that all errors of a file are reported together.
"""

import io
import re
import tokenize
import warnings
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, TypeAlias

from gin import config_parser

from dalle_jax.config.problems import Location, Problems

_Statement: TypeAlias = (
    config_parser.BindingStatement
    | config_parser.BlockDeclaration
    | config_parser.ImportStatement
    | config_parser.IncludeStatement
)

MAX_DEPTH = 50
"""Largest depth of nested brackets, or of macros that use macros."""

MAX_ERRORS = 30
"""Number of unreadable statements in one file after which reading stops."""

MAX_ADJACENT_STRINGS = 1000
"""Largest number of strings in a row that stand for one. Gin's parser takes quadratic time for them."""

_TARGET = re.compile(r"\s*([A-Za-z_][\w.]*)\s*[=:]")
_TOKEN = re.compile(r"Failed to parse token '(.*)'", re.DOTALL)
_NO_START = re.compile(r"[\s)\]}'\"#\d]|$")
_MESSAGES = {
    "Unable to parse value.": "expected a value, got nothing",
    "Couldn't parse statement, expected ':' or '='.": "expected name = value",
    "Malformatted scope or selector.": "a name consists of words joined by dots, without spaces",
    "Unexpected token.": "expected name = value",
}


@dataclass(frozen=True)
class Reference:
    """``@Name``, which chooses a variant by the name of its class."""

    name: str
    called: bool = False

    def __repr__(self) -> str:
        """Return the gin text."""
        return f"@{self.name}" + ("()" if self.called else "")


@dataclass(frozen=True)
class Macro:
    """``%NAME``, which stands for the value of the last definition of a macro."""

    name: str

    def __repr__(self) -> str:
        """Return the gin text."""
        return f"%{self.name}"


@dataclass(frozen=True)
class SetValue:
    """A value of ``--set``: ``text`` as typed, and its ``value`` as gin text (``UNREADABLE`` if it is not gin)."""

    text: str
    value: "Value"

    def __repr__(self) -> str:
        """Return the gin text, or else the text as typed."""
        return self.text if self.value is UNREADABLE else show(self.value)


class Unreadable(Enum):
    """The type of ``UNREADABLE``."""

    TOKEN = 0

    def __repr__(self) -> str:
        """Return the text that messages show."""
        return "(unreadable)"


UNREADABLE: Final = Unreadable.TOKEN
"""The value of a statement that could not be read. It causes no further errors."""

if TYPE_CHECKING:
    Plain: TypeAlias = bool | int | float | str | tuple["Plain", ...] | None
    Value: TypeAlias = (
        Plain
        | bytes
        | complex
        | tuple["Value", ...]
        | list["Value"]
        | dict["Value", "Value"]
        | Reference
        | Macro
        | SetValue
        | Unreadable
    )
else:
    Plain = Value = object  # the tests' run-time type checker cannot resolve recursive aliases
"""``Plain`` is the value of a leaf.

``Value`` is a value as it stands in the text: a Python literal that gin parses, a reference, a macro or a ``--set``
argument.
"""


@dataclass(frozen=True)
class Binding:
    """``name = value`` and its location."""

    name: str
    value: Value
    where: Location


@dataclass(frozen=True)
class Include:
    """``include 'file'`` and its location."""

    file: str
    where: Location


class _Delegate(config_parser.ParserDelegate):
    """The delegate through which gin's parser returns references and macros as plain values."""

    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> Reference:
        return Reference(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> Macro:
        return Macro(macro_name)


def read(text: str, file: str, problems: Problems) -> Iterator[Binding | Include]:
    """Yield the statements of a text in order. Add unreadable ones to ``problems``."""
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if "\0" in text:
        line = next(number for number, one in enumerate(lines, start=1) if "\0" in one)
        problems.add(Location(file, line), "expected a text file, got a null character")
        problems.incomplete = True
        return
    start, errors = 0, 0
    while start < len(lines):
        if errors == MAX_ERRORS:
            problems.add(Location(file, start + 1), f"reading stops here, after {errors} unreadable statements")
            problems.incomplete = True
            return
        start = yield from _read_from(lines, start, file, problems)
        errors += 1


def _read_from(lines: list[str], start: int, file: str, problems: Problems) -> Generator[Binding | Include, None, int]:
    """Yield statements up to the first unreadable one. Return the index of the line to continue with."""
    parser = None
    begin = start
    with_lines = "\n".join(lines[start:]) + "\n"
    while True:
        try:
            if parser is None:
                _check_strings(with_lines)
                parser = config_parser.ConfigParser(with_lines, _Delegate())
            begin = start + parser.current_token.start[0] - 1
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # such as the one about '\d' in a string
                statement = parser.parse_statement()
        except Exception as error:  # gin raises any error of tokenize, ast and its own code
            begin = _first_statement(lines, begin)
            where = Location(file, _line(error, start, begin, len(lines)))
            problems.add(where, _explain(error, lines[where.line - 1], begin + 1, where.line))
            if target := _TARGET.match(lines[begin]):
                yield Binding(target[1], UNREADABLE, Location(file, begin + 1))
            else:
                problems.incomplete = True
            return next((i for i in range(begin + 1, len(lines)) if not _NO_START.match(lines[i])), len(lines))
        if statement is None:
            return len(lines)
        yield from _statement(statement, Location(file, start + statement.location.line_num), problems)


def _check_strings(text: str) -> None:
    """Raise SyntaxError, with the line, for more than ``MAX_ADJACENT_STRINGS`` strings in a row."""
    if text.count("'") + text.count('"') <= 2 * MAX_ADJACENT_STRINGS:
        return
    count = 0
    try:
        for token in tokenize.generate_tokens(io.StringIO(text).readline):
            if token.type not in (tokenize.NL, tokenize.COMMENT):
                count = count + 1 if token.type == tokenize.STRING else 0
            if count > MAX_ADJACENT_STRINGS:
                error = SyntaxError(f"expected at most {MAX_ADJACENT_STRINGS} strings in a row, got more")
                error.lineno = token.start[0]
                raise error
    except (tokenize.TokenError, IndentationError):  # the parser reports it
        return


def _statement(
    statement: _Statement,
    where: Location,
    problems: Problems,
) -> Iterator[Binding | Include]:
    """Convert a statement of gin. Add it to ``problems`` if gin allows it and a config does not."""
    if isinstance(statement, config_parser.ImportStatement):
        problems.add(where, f"`{statement.format()}`: a config is data and cannot import; remove the line")
    elif isinstance(statement, config_parser.IncludeStatement):
        yield Include(statement.filename, where)
    elif statement.scope:
        problems.add(where, f"scopes ({statement.scope}/) are not supported; write the whole path with dots")
    elif isinstance(statement, config_parser.BindingStatement):
        name = ".".join(part for part in (statement.selector, statement.arg_name) if part)
        yield Binding(name, legal_value(statement.value, where, problems), where)


def legal_value(value: Value, where: Location, problems: Problems, depth: int = 0) -> Value:
    """Return the value, or report a call, a scope or too deep brackets and return ``UNREADABLE``."""
    if depth > MAX_DEPTH:
        problems.add(where, f"expected brackets nested at most {MAX_DEPTH} deep, got more")
        return UNREADABLE
    if isinstance(value, Reference) and value.called:
        problems.add(where, f"{value} is a call, and a config cannot call anything; write @{value.name}")
        return UNREADABLE
    if isinstance(value, Reference | Macro) and not value.name.isidentifier():
        problems.add(where, f"{value}: expected one word after {str(value)[0]}, without scopes or module names")
        return UNREADABLE
    if isinstance(value, str) and not is_utf8(value):
        problems.add(
            where, f"expected text that can be written as UTF-8, got half of a surrogate pair in {value[:40]!a}"
        )
        return UNREADABLE
    parts: Sequence[Value] = (
        (*value, *value.values()) if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    )
    if any(legal_value(part, where, problems, depth + 1) is UNREADABLE for part in parts):
        return UNREADABLE
    return value


def is_utf8(text: str) -> bool:
    """Return whether a text can be written as UTF-8; half of a surrogate pair cannot."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def set_value(text: str) -> SetValue:
    """Parse the value of a ``--set`` argument as gin text. The result also holds the text as typed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            statements = list(read(f"x = {text}", "", problems := Problems()))
    except RecursionError:
        return SetValue(text, UNREADABLE)
    single = len(statements) == 1 and isinstance(statements[0], Binding) and not problems.found and "\n" not in text
    return SetValue(text, statements[0].value if single and isinstance(statements[0], Binding) else UNREADABLE)


def show(value: object) -> str:
    """Return the value as gin text, shortened for a message."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print so many digits
        text = "a number of thousands of digits"
    return text if len(text) <= 80 else text[:77] + "..."


def _first_statement(lines: list[str], begin: int) -> int:
    """Return the index of the first line from ``begin`` on that is neither blank nor a comment."""
    written = (i for i in range(begin, len(lines)) if lines[i].strip() and not lines[i].lstrip().startswith("#"))
    return next(written, min(begin, len(lines) - 1))


def _line(error: Exception, start: int, begin: int, total: int) -> int:
    """Return the line number of the error if gin gives it, else of the statement."""
    own = error.lineno if isinstance(error, SyntaxError) else None
    return min(start + own, total) if own else begin + 1


def _explain(error: Exception, line: str, begin: int, at: int) -> str:
    """Return the error message for a config statement that cannot be read."""
    if isinstance(error, RecursionError | MemoryError):
        problem = "nested too deeply"
    elif isinstance(error, tokenize.TokenError):
        problem = "a bracket or a string is not closed"
    elif isinstance(error, StopIteration):
        problem = "the text ends in the middle of a statement"
    elif isinstance(error, SyntaxError) and error.msg:
        token = _TOKEN.search(error.msg)
        problem = _no_value(token[1]) if token else _MESSAGES.get(error.msg, error.msg.split("\n")[0])
    else:
        problem = str(error) or type(error).__name__
    since = f" (the statement begins on line {begin})" if begin != at else ""
    line = line.strip()
    return f"cannot be read: {problem}{since}, in `{line if len(line) <= 80 else line[:77] + '...'}`"


def _no_value(token: str) -> str:
    token = token if len(token) <= 40 else token[:37] + "..."
    return f"{token} is not a value; write a string as '{token}', a macro as %{token} and a variant as @{token}"
