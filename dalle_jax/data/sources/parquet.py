"""Captioned images in parquet tables, as img2dataset, Hugging Face and others write them."""

import hashlib
import importlib
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.data.files.patterns import find_files
from dalle_jax.data.files.ranges import DataFile, read_range
from dalle_jax.data.files.seekable_file import SeekableFile
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.config_checks import check_config
from dalle_jax.data.formats.parquet_pages import RowGroup, largest_page
from dalle_jax.data.formats.row_files import RowRecords, Rows, short_names
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
"""Increase this whenever the same files and config give different records."""
_TEXT = re.compile(r"string|binary|utf8")
"""Matches the names of Arrow's types that can hold captions, alone or within lists and dictionaries."""
DATES = ("timestamp", "date", "time", "duration", "decimal")
"""Beginnings of the names of column types that are read as text."""
ARROW_ERRORS = (OSError, ValueError, NotImplementedError, TypeError, LookupError, OverflowError, MemoryError)
"""Kinds of error that pyarrow raises for files that it cannot read."""
ROWS_AT_ONCE = 16
"""Largest number of rows that are read at once from a row group that is too large to keep in memory."""
UNBUFFERED_BYTES = 256 * 2**20
"""Largest row group, as stored, whose column chunks are read as a whole."""


@dataclass(frozen=True)
class Parquet:
    """The rows of parquet files.

    ``files`` are files, folders, patterns and URLs (data/files/patterns.py). ``image`` is the column of encoded images:
    bytes, or a struct with ``bytes`` in it as Hugging Face writes. ``caption`` names the columns of captions: texts,
    bytes in UTF-8, or lists of these; missing columns are skipped. All other columns are metadata. An image of more
    than ``max_bytes`` is a bad record.

    Parquet is read one row group at a time, so random access is slow if row groups are large. Row groups of up to
    ``kept_bytes`` in total are kept in memory. A larger row group is read again for each of its records, in small
    batches. Write small row groups (100 images), or array_record files. Sizes are those in the page headers, since a
    footer may lie (data/formats/parquet_pages.py).
    """

    files: tuple[str, ...]
    image: str = "image"
    caption: tuple[str, ...] = ("caption", "text")
    max_bytes: int = 64 * 2**20
    kept_bytes: int = 256 * 2**20

    def open(self) -> "ParquetRecords":
        """Open the files. Raises UserError for wrong fields, for missing columns, and without pyarrow."""
        limits = {"max_bytes": self.max_bytes, "kept_bytes": self.kept_bytes}
        check_config("parquet files", limits, self.caption)
        return ParquetRecords(self)


@runtime_checkable
class _ArrowColumn(Protocol):
    """The part of ``pyarrow.Array`` and ``pyarrow.ChunkedArray`` that is used here."""

    def cast(self, target_type: str) -> "_ArrowColumn": ...
    def to_pylist(self) -> list[object]: ...


@runtime_checkable
class _ArrowTable(Protocol):
    """The part of ``pyarrow.Table`` and ``pyarrow.RecordBatch`` that is used here."""

    nbytes: int
    num_rows: int

    schema: "_ArrowSchema"
    columns: "list[_ArrowColumn]"

    def slice(self, offset: int, length: int) -> "_ArrowTable": ...


@runtime_checkable
class _RowGroup(RowGroup, Protocol):
    """The part of ``pyarrow.parquet.RowGroupMetaData`` that is used here."""

    total_byte_size: int


@runtime_checkable
class _Footer(Protocol):
    """The part of ``pyarrow.parquet.FileMetaData`` that is used here."""

    num_rows: int
    num_row_groups: int

    def row_group(self, number: int) -> _RowGroup: ...


@runtime_checkable
class _ArrowField(Protocol):
    """The part of ``pyarrow.Field`` that is used here."""

    type: object


@runtime_checkable
class _ArrowSchema(Protocol):
    """The part of ``pyarrow.Schema`` that is used here."""

    names: list[str]

    def field(self, name: str | int) -> _ArrowField: ...


@runtime_checkable
class _ParquetFile(Protocol):
    """The part of ``pyarrow.parquet.ParquetFile`` that is used here."""

    metadata: _Footer
    schema_arrow: _ArrowSchema

    def read_row_group(self, number: int, use_threads: bool) -> _ArrowTable: ...
    def iter_batches(self, batch_size: int, row_groups: list[int], use_threads: bool) -> Iterator[_ArrowTable]: ...


class ParquetRecords(RowRecords):
    """``Records`` of parquet files, in the order of the files' names."""

    def __init__(self, config: Parquet):
        self._config = config
        files = find_files(config.files, (".parquet",))
        self._tables = [_Table(file, config) for file in files]
        labels = short_names(file.name for file in files)
        super().__init__(", ".join(config.files), labels, [len(table) for table in self._tables])
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[int, int], _ArrowTable] = OrderedDict()

    def read_row(self, key: str, file: int, row: int) -> Record:
        """Read a row's columns as a record. Raises BadRecord."""
        try:
            fields = self._fields(file, row)
        except ARROW_ERRORS as error:
            message = " ".join(str(error).split())[:200]
            raise BadRecord(key, "broken row group", f"its row cannot be read: {message}") from error
        config = self._config
        image = fields.pop(config.image)
        if isinstance(image, dict):
            image = image.get("bytes")
        image_bytes = sidecars.check_image(key, config.image, image, config.max_bytes)
        captions = sidecars.unique_captions(key, *sidecars.captions_in(fields, config.caption))
        metadata = {name: value for name, value in fields.items() if name not in config.caption}
        return Record(key, image_bytes, captions, metadata)

    def fingerprint(self) -> str:
        """Return a digest of the config, and of each file's size and footer, which says where its columns are."""
        config = self._config
        content = (VERSION, config.image, config.caption, config.max_bytes, [table.digest for table in self._tables])
        return "parquet-" + hashlib.sha256(repr(content).encode()).hexdigest()[:16]

    def _fields(self, file: int, row: int) -> dict[str, object]:
        """Read all columns of a row. Keep its row group in memory unless it exceeds ``kept_bytes``."""
        table = self._tables[file]
        group, row_in_group = table.rows.find(row)
        if table.group_bytes[group] > self._config.kept_bytes:
            return table.read_row(group, row_in_group)
        with self._lock:
            kept = self._groups.pop((file, group), None)
        if kept is None:
            kept = table.read_group(group)
        if kept is None:  # it is larger than its footer says
            return table.read_row(group, row_in_group)
        with self._lock:
            self._groups[file, group] = kept
            while len(self._groups) > 1 and sum(one.nbytes for one in self._groups.values()) > self._config.kept_bytes:
                self._groups.popitem(last=False)
        return table.fields(kept, row_in_group)


class _Table:
    """A parquet file. Its footer is kept in memory, and the file is opened again for each reading."""

    def __init__(self, file: DataFile, config: Parquet):
        self._file = file
        opened = self._opened(None)
        self._footer = opened.metadata
        self.digest = _footer_digest(file)
        groups = [self._footer.row_group(number) for number in range(self._footer.num_row_groups)]
        self.rows = Rows([group.num_rows for group in groups])
        self.group_bytes = [group.total_byte_size for group in groups]
        self._stored_bytes = [
            sum(group.column(number).total_compressed_size for number in range(group.num_columns)) for group in groups
        ]
        self._pages: dict[int, int] = {}
        self._kept_bytes = config.kept_bytes
        if any(group.num_rows < 0 for group in groups) or len(self.rows) > file.size:
            got = f"{self._footer.num_rows:,} in {file.size:,} bytes"
            raise UserError(f"{file.name}: expected rows with an image in each, got {got}")
        schema = opened.schema_arrow
        _check_columns(file.name, schema, config)
        self._as_text = {name for name in schema.names if str(_type(schema, name)).startswith(DATES)}

    def __len__(self) -> int:
        return len(self.rows)

    def fields(self, rows: _ArrowTable, row: int) -> dict[str, object]:
        """Return the columns of a row. Dates, times and decimals become text.

        Python's own cannot hold all of them, and other formats hold none. Raise ValueError that names a column whose
        value cannot be read.
        """
        if row >= rows.num_rows:
            raise ValueError(f"expected more than {row} rows in the group, got {rows.num_rows}")
        found: dict[str, object] = {}
        for name, column in zip(rows.schema.names, rows.slice(row, 1).columns, strict=True):
            try:
                found[name] = (column.cast("string") if name in self._as_text else column).to_pylist()[0]
            except ARROW_ERRORS as error:
                raise ValueError(f"the column {name}: {error}") from error
        return found

    def read_group(self, group: int) -> _ArrowTable | None:
        """Read all rows of a row group. Return None, also from now on, if they take more than ``kept_bytes``."""
        rows, fitting = self._footer.row_group(group).num_rows, self._fitting_rows(group)
        opened = self._opened(self._footer, self._stored_bytes[group])
        if rows <= fitting:
            return opened.read_row_group(group, use_threads=False)
        batches, taken = [], 0
        for batch in opened.iter_batches(fitting, row_groups=[group], use_threads=False):
            batches.append(batch)
            taken += batch.nbytes
            if taken > self._kept_bytes:
                self.group_bytes[group] = taken
                return None
        return importlib.import_module("pyarrow").Table.from_batches(batches)

    def _fitting_rows(self, group: int) -> int:
        """Return how many rows take at most ``kept_bytes`` even if each has a value of the largest page's size."""
        if group not in self._pages:
            self._pages[group] = largest_page(self._file, self._footer.row_group(group))
        return max(1, self._kept_bytes // self._pages[group])

    def read_row(self, group: int, row: int) -> dict[str, object]:
        """Read one row of a row group that is too large for memory, by iterating over small batches of rows."""
        first, rows = 0, min(ROWS_AT_ONCE, self._fitting_rows(group))
        opened = self._opened(self._footer, self._stored_bytes[group])
        for batch in opened.iter_batches(rows, row_groups=[group], use_threads=False):
            if row < first + batch.num_rows:
                return self.fields(batch, row - first)
            first += batch.num_rows
        raise ValueError(f"row group {group} ends before its row {row}")

    def _opened(self, footer: _Footer | None, stored: int = 0) -> _ParquetFile:
        """Open the file for one reading by one thread. If ``footer`` is given, the footer is not read again.

        ``stored`` is the size in the file of the row group that will be read.
        """
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            hint = install_hint("parquet")
            raise UserError(f"{self._file.name}: expected the package pyarrow, found none; {hint}") from error
        try:
            buffer = buffer_bytes(stored)
            return parquet.ParquetFile(SeekableFile(self._file), metadata=footer, pre_buffer=False, buffer_size=buffer)
        except ARROW_ERRORS as error:
            message = " ".join(str(error).split())[:200]
            raise UserError(f"{self._file.name}: expected a parquet file, got other content ({message})") from error


def buffer_bytes(stored: int) -> int:
    """Return pyarrow's buffer size for a row group of ``stored`` bytes in the file; 0 reads column chunks as a whole.

    A buffered stream takes as much memory as a page's header says, up to 2 GiB, even if the file is smaller.
    """
    return 0 if stored <= UNBUFFERED_BYTES else 2**20


def _type(schema: _ArrowSchema, name: str) -> object:
    return schema.field(schema.names.index(name)).type


def _check_columns(path: str, schema: _ArrowSchema, config: Parquet) -> None:
    """Raise UserError unless a table has an image column of bytes and at least one caption column."""
    columns = schema.names
    if config.image not in columns or not set(config.caption) & set(columns):
        raise UserError(
            f"{path}: expected the column {config.image}, as image names it, and one of the columns "
            f"{' or '.join(config.caption)}, as caption names them, got the columns {', '.join(columns)}"
        )
    kind = str(_type(schema, config.image))
    if not kind.removeprefix("large_").startswith(("binary", "struct<")) or (
        "struct" in kind and "bytes: " not in kind
    ):
        raise UserError(f"{path}: expected bytes, or a struct with bytes, in {config.image}, got {kind}")
    kinds = {name: str(schema.field(name).type) for name in config.caption if name in columns}
    if not any(_TEXT.search(kind) for kind in kinds.values()):
        got = ", ".join(f"{kind} in {name}" for name, kind in kinds.items())
        raise UserError(f"{path}: expected texts in a column of captions, got {got}; name the right one with caption")


def _footer_digest(file: DataFile) -> str:
    """Return a digest of a parquet file's size and footer.

    The footer consists of the file's metadata, their length in four bytes, and "PAR1".
    """
    length = int.from_bytes(read_range(file, file.size - 8, 4), "little")
    footer = read_range(file, max(0, file.size - 8 - length), length + 8)
    return hashlib.sha256(repr((file.size, footer)).encode()).hexdigest()
