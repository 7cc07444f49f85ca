"""Prompts files, read as a stream: lines of text, or rows of jsonl or parquet that may have options of their own.

A first pass validates every row and counts; a second one yields requests. Neither keeps the rows in memory.
"""

import codecs
import hashlib
import importlib
import io
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, cast, runtime_checkable

from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.config.problems import did_you_mean
from dalle_jax.data.files.patterns import find_files
from dalle_jax.data.files.ranges import DataFile
from dalle_jax.data.files.seekable_file import SeekableFile
from dalle_jax.data.formats.parquet_pages import RowGroup, largest_page
from dalle_jax.data.sources.parquet import ARROW_ERRORS, buffer_bytes
from dalle_jax.pipelines.request import Request, RequestKeywords, RequestOptions
from dalle_jax.untrusted import parse_json

SUFFIXES = (".txt", ".jsonl", ".parquet")
TEXTS = ("prompt", "negative_prompt")
NUMBERS: dict[str, type] = {
    "seed": int,
    "candidates": int,
    "keep": int,
    "temperature": float,
    "top_k": int,
    "top_p": float,
    "guidance": float,
    "guidance_end": float,
}
"""Options of ``RequestOptions`` that a row may have, and their types."""
MAX_BAD_ROWS = 20
"""Largest number of bad rows of one file that an error lists; further ones are only counted."""
MAX_LINE_BYTES = 2**20
"""Largest line of a prompts file, in bytes."""
MAX_FIELDS = 100
"""Largest number of fields of a row; an unknown one is compared with all known names."""
ROWS_AT_ONCE = 1024
"""Largest number of rows that are read at once from parquet."""
MAX_BATCH_BYTES = 64 * 2**20
"""Memory for the rows that are read at once, even if each has a value of the largest page's size."""


Fields = Mapping[str, object]


class NumberedRequest(NamedTuple):
    """A request, and the number of its prompt in the whole job, from 0."""

    number: int
    request: Request


@dataclass(frozen=True)
class Survey:
    """The result of the first pass.

    - ``prompts``: their number, and ``sha256`` a hash of all rows.
    - ``candidates``: how many prompts have each number of candidates.
    - ``kept``: the images to keep, and ``most_kept`` the largest number of them for one prompt.
    - ``guided``: whether any prompt has a guidance other than 1.
    - ``negative``: whether any prompt has a negative prompt.
    - ``ignored``: columns that are not used.
    """

    prompts: int
    sha256: str
    candidates: Mapping[int, int]
    kept: int
    most_kept: int
    guided: bool
    negative: bool
    ignored: tuple[str, ...]

    @property
    def images(self) -> int:
        """The number of images to sample."""
        return sum(candidates * prompts for candidates, prompts in self.candidates.items())


class PromptFiles:
    """Prompts files in the given order. ``defaults`` are the options of rows without options of their own."""

    def __init__(self, names: Sequence[str], defaults: RequestOptions, negative_prompt: str | None = None) -> None:
        """Look up the files; a name may be a folder, a pattern or a URL (data/files/patterns.py)."""
        self._files = [file for name in names for file in find_files([name], SUFFIXES)]
        self._defaults, self._negative = defaults, negative_prompt

    def survey(self, check: Callable[[Request], None] | None = None) -> Survey:
        """Validate all rows. Raise one UserError that lists the bad rows of all files, up to 20 of each file.

        ``check`` raises UserError for a request that the model cannot sample.
        """
        digest, candidates, keeps = hashlib.sha256(), Counter[int](), Counter[int]()
        guided = negative = False
        ignored: set[str] = set()
        problems = []
        for file in self._files:
            bad = BadRows(file.name)
            before = candidates.total()
            for where, row in _rows(file):
                try:
                    fields_of_row = _parsed(row)
                    request = self._request(fields_of_row)
                    if check is not None:
                        check(request)
                except UserError as error:
                    bad.add(f"{where}: {error}")
                    continue
                digest.update(repr(sorted(_used(fields_of_row).items())).encode())
                ignored |= fields_of_row.keys() - NUMBERS.keys() - set(TEXTS)
                candidates[request.options.candidates] += 1
                keeps[request.options.kept] += 1
                guided |= request.options.guided
                negative |= request.negative_prompt is not None
            if not bad.lines and candidates.total() == before:
                bad.add(f"{file.name}: expected a prompt in each line or row, got only blank ones")
            problems += bad.lines
        if problems:
            raise UserError("\n".join(problems))
        return Survey(
            prompts=candidates.total(),
            sha256=digest.hexdigest(),
            candidates=dict(candidates),
            kept=sum(keep * count for keep, count in keeps.items()),
            most_kept=max(keeps),
            guided=guided,
            negative=negative,
            ignored=tuple(sorted(ignored)),
        )

    def requests(self, wanted: Callable[[int], bool]) -> Iterator[NumberedRequest]:
        """Yield the request of each prompt whose number is wanted, in order."""
        number = 0
        for file in self._files:
            for _, row in _rows(file):
                if wanted(number):
                    yield NumberedRequest(number, self._request(_parsed(row)))
                number += 1

    def _request(self, row: Fields) -> Request:
        """Return the request of a row. Raise UserError that names the wrong field."""
        for name in row.keys() - NUMBERS.keys() - set(TEXTS):
            if hint := did_you_mean(name, (*NUMBERS, *TEXTS)):
                raise UserError(f"{name}: expected {', '.join((*TEXTS, *NUMBERS))}, got an unknown field{hint}")
        used = _used(row)
        prompt = _text("prompt", used.get("prompt"))
        negative = _text("negative_prompt", used["negative_prompt"]) if "negative_prompt" in used else self._negative
        numbers = {name: _number(name, value, NUMBERS[name]) for name, value in used.items() if name in NUMBERS}
        options = replace(self._defaults, **cast(RequestKeywords, numbers))
        return Request(prompt, options, negative_prompt=negative)


class PromptLine(NamedTuple):
    """A line, and the function that parses it: a line that nobody needs is not parsed."""

    content: bytes
    parse: Callable[[str], Fields]


class BadRows:
    """The bad rows of a file, of which an error lists the first ``MAX_BAD_ROWS``."""

    def __init__(self, file: str) -> None:
        self._file, self._first, self._more = file, list[str](), 0

    def add(self, line: str) -> None:
        """Add the line about one row."""
        if len(self._first) < MAX_BAD_ROWS:
            self._first.append(line)
        else:
            self._more += 1

    @property
    def lines(self) -> list[str]:
        """The lines of the error."""
        return self._first + ([f"{self._file}: and {self._more} more bad rows"] if self._more else [])


def _used(row: Fields) -> dict[str, object]:
    """Return the fields of a row that are set and known. Parquet has None or NaN for a value that is not set."""
    known = ((name, value) for name, value in row.items() if name in NUMBERS or name in TEXTS)
    return {name: value for name, value in known if value is not None}


def _text(name: str, value: object) -> str:
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{name}: expected a text, got {'none' if value is None else _quoted(value)}")
    return value.strip()


def _quoted(value: object) -> str:
    """Quote a value in a message. Python refuses to print a number of thousands of digits."""
    return "a huge number" if isinstance(value, int) and abs(value) >= 2**63 else repr(value)[:60]


def _number(name: str, value: object, kind: type) -> int | float:
    """Return a number of a row. A whole number may be written as a float, as tables with missing values do."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UserError(f"{name}: expected a number, got {_quoted(value)}")
    if isinstance(value, int) and abs(value) >= 2**63:
        raise UserError(f"{name}: expected a number below 2^63, got a huge number")
    if kind is float:
        return float(value)
    if not math.isfinite(value) or int(value) != value:
        raise UserError(f"{name}: expected a whole number, got {value!r:.60}")
    return int(value)


def _rows(file: DataFile) -> Iterator[tuple[str, Fields | PromptLine]]:
    """Yield the place of each row in an error, and its fields or line. Blank lines are no rows."""
    if file.name.endswith(".parquet"):
        for number, fields_of_row in enumerate(_parquet_rows(file), start=1):
            yield f"{file.name}: row {number}", fields_of_row
        return
    parse = _json_row if file.name.endswith(".jsonl") else _text_row
    stream = io.BufferedReader(SeekableFile(file), 2**20)
    for number, line in enumerate(iter(lambda: stream.readline(MAX_LINE_BYTES + 1), b""), start=1):
        if len(line) > MAX_LINE_BYTES:
            raise UserError(f"{file.name}: row {number}: expected a line of at most {MAX_LINE_BYTES:,} bytes, got more")
        content = line.removeprefix(codecs.BOM_UTF8) if number == 1 else line
        if content.strip():
            yield f"{file.name}: row {number}", PromptLine(content, parse)


def _parsed(row: Fields | PromptLine) -> Fields:
    """Return the fields of a row. Raise UserError for a line that cannot be parsed."""
    if not isinstance(row, PromptLine):
        return row
    try:
        return row.parse(row.content.decode())
    except UnicodeDecodeError as error:
        raise UserError(f"expected text in UTF-8, got an invalid byte at position {error.start} of the line") from error


def _text_row(line: str) -> Fields:
    return {"prompt": line.strip()}


def _json_row(line: str) -> Fields:
    try:
        row = parse_json(line.encode())
    except ValueError as error:
        raise UserError(f"expected a JSON object in one line, got {line.strip()!r:.60} ({error})") from error
    if not isinstance(row, dict):
        raise UserError(f"expected a JSON object, got {line.strip()!r:.60}")
    if len(row) > MAX_FIELDS:
        raise UserError(f"expected a JSON object of at most {MAX_FIELDS} fields, got {len(row)}")
    return row


@runtime_checkable
class _ArrowBatch(Protocol):
    """The part of ``pyarrow.RecordBatch`` that is used here."""

    def to_pylist(self) -> list[dict[str, object]]: ...


@runtime_checkable
class _PromptSchema(Protocol):
    """The part of ``pyarrow.Schema`` that is used here."""

    names: list[str]


@runtime_checkable
class _PromptFooter(Protocol):
    """The part of ``pyarrow.parquet.FileMetaData`` that is used here."""

    num_rows: int
    num_row_groups: int

    def row_group(self, number: int) -> RowGroup: ...


@runtime_checkable
class _PromptTable(Protocol):
    """The part of ``pyarrow.parquet.ParquetFile`` that is used here."""

    schema_arrow: _PromptSchema
    metadata: _PromptFooter

    def iter_batches(self, batch_size: int, columns: Sequence[str], use_threads: bool) -> Iterator[_ArrowBatch]: ...


def _parquet_rows(file: DataFile) -> Iterator[Fields]:
    table: _PromptTable
    try:
        parquet = importlib.import_module("pyarrow.parquet")
        table = parquet.ParquetFile(SeekableFile(file), pre_buffer=False, buffer_size=buffer_bytes(file.size))
    except ImportError as error:
        raise UserError(f"{file.name}: expected the package pyarrow, found none; {install_hint('parquet')}") from error
    except ARROW_ERRORS as error:
        raise _not_parquet(file, error) from error
    names = list(dict.fromkeys(table.schema_arrow.names))
    used = [name for name in names if name in NUMBERS or name in TEXTS]
    others = dict.fromkeys(name for name in names if name not in used)
    try:
        footer = table.metadata
        if footer.num_rows > file.size:
            raise ValueError(f"{footer.num_rows:,} rows in {file.size:,} bytes")
        groups = [footer.row_group(number) for number in range(footer.num_row_groups)]
        page = max((largest_page(file, group, frozenset(used)) for group in groups), default=1)
        rows = max(1, min(ROWS_AT_ONCE, MAX_BATCH_BYTES // page))
        for batch in table.iter_batches(batch_size=rows, columns=used, use_threads=False):
            for row in batch.to_pylist():
                known = {name: None if isinstance(one, float) and math.isnan(one) else one for name, one in row.items()}
                yield others | known
    except ARROW_ERRORS as error:
        raise _not_parquet(file, error) from error


def _not_parquet(file: DataFile, error: Exception) -> UserError:
    message = " ".join(str(error).split())[:200]
    return UserError(f"{file.name}: expected a parquet file of prompts, got other content ({message})")
