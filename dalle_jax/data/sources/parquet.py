"""Captioned images in parquet tables: as img2dataset, Hugging Face and many exports write them."""

import hashlib
import importlib
import io
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from dalle_jax.config.errors import UserError
from dalle_jax.data.files.patterns import named
from dalle_jax.data.files.ranges import Stored, read, stored
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.row_files import RowRecords, Rows
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
"""Goes up whenever the same files and configuration would give other records."""
ROWS_AT_ONCE = 16
"""Rows that are held of a row group too large to be kept."""


@dataclass(frozen=True)
class Parquet:
    """The rows of the parquet files that ``files`` name: files, folders, patterns, URLs (data/files/patterns.py).

    ``image`` is the column of encoded images: bytes, or a struct with ``bytes`` in it (Hugging Face's image). The
    captions of a row are those in all columns of ``caption`` that there are, texts or lists of texts; all other columns
    are what is said of it. An image of more than ``max_bytes`` is bad.

    Parquet is read a row group at a time, so where row groups are large reading at random is slow: ``kept_bytes`` of
    them are kept in memory. Of a group larger than that a few rows are held at once, and it is read anew for each
    record. Files of one's own should have small row groups (100 images), or be array_record files.
    """

    files: tuple[str, ...]
    image: str = "image"
    caption: tuple[str, ...] = ("caption", "text")
    max_bytes: int = 64 * 2**20
    kept_bytes: int = 256 * 2**20

    def open(self) -> "ParquetRecords":
        """The records. Raises UserError for fields that make no sense, for missing columns, and without pyarrow."""
        problems = [] if self.caption else ["caption must name the columns that hold captions, got none"]
        problems += [
            f"{name} must be at least 1, got {value}"
            for name, value in (("max_bytes", self.max_bytes), ("kept_bytes", self.kept_bytes))
            if value < 1
        ]
        if problems:
            raise UserError("parquet files: " + "; ".join(problems))
        return ParquetRecords(self)


class ParquetRecords(RowRecords):
    """``Records`` in the order of the files' names."""

    def __init__(self, config: Parquet):
        self._config = config
        names = named(config.files, (".parquet",))
        self._files = [_Table(stored(name), config) for name in names]
        super().__init__(config.files, names, [len(file) for file in self._files])
        self._lock = threading.Lock()
        self._groups: OrderedDict[tuple[int, int], Any] = OrderedDict()

    def __getitem__(self, index: int) -> Record:
        file, row = self._rows.find(index)
        key = self.key(index)
        try:
            fields = self._fields(file, row)
        except (OSError, ValueError, NotImplementedError) as error:  # pyarrow's errors are of these kinds
            said = " ".join(str(error).split())[:200]
            raise BadRecord(key, "broken row group", f"its row group cannot be read: {said}") from error
        config = self._config
        image = fields.pop(config.image)
        if isinstance(image, dict):
            image = image.get("bytes")
        image = sidecars.image(key, config.image, image, config.max_bytes)
        captions = [one for name in config.caption for one in sidecars.said(fields.pop(name, None))]
        return Record(key, image, sidecars.distinct(key, captions), fields)

    def fingerprint(self) -> str:
        """A digest of the configuration and of the files' sizes and footers, which say where their columns lie."""
        config = self._config
        parts = (VERSION, config.image, config.caption, config.max_bytes, [file.digest for file in self._files])
        return "parquet-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _fields(self, file: int, row: int) -> dict[str, Any]:
        table = self._files[file]
        group, place = table.rows.find(row)
        if table.group_bytes[group] > self._config.kept_bytes:
            return table.row(group, place)
        with self._lock:
            kept = self._groups.pop((file, group), None)
        if kept is None:
            kept = table.group(group)
        with self._lock:
            self._groups[file, group] = kept
            while len(self._groups) > 1 and sum(one.nbytes for one in self._groups.values()) > self._config.kept_bytes:
                self._groups.popitem(last=False)
        return kept.slice(place, 1).to_pylist()[0]


class _Table:
    """One file: its footer is read when it is made, and nothing of it stays open."""

    def __init__(self, file: Stored, config: Parquet):
        self._file = file
        opened = self._opened(None)
        self._metadata = opened.metadata
        self.digest = _footer_digest(file)
        groups = [self._metadata.row_group(number) for number in range(self._metadata.num_row_groups)]
        self.rows = Rows([str(number) for number in range(len(groups))], [group.num_rows for group in groups])
        self.group_bytes = [group.total_byte_size for group in groups]
        columns = opened.schema_arrow.names
        if config.image not in columns or not set(config.caption) & set(columns):
            raise UserError(
                f"{file.name}: expected a column {config.image} of images (image) and one of "
                f"{' or '.join(config.caption)} (caption), got the columns {', '.join(columns)}"
            )
        held = str(opened.schema_arrow.field(config.image).type)
        if not held.removeprefix("large_").startswith(("binary", "struct<")) or (
            "struct" in held and "bytes: " not in held
        ):
            raise UserError(f"{file.name}: expected bytes, or a struct with bytes, in {config.image}, got {held}")

    def __len__(self) -> int:
        return self._metadata.num_rows

    def group(self, group: int) -> Any:
        """All rows of a row group, as a pyarrow table."""
        return self._opened(self._metadata).read_row_group(group, use_threads=False)

    def row(self, group: int, place: int) -> dict[str, Any]:
        """One row of a row group too large to be held, a few at once."""
        first = 0
        batches = self._opened(self._metadata).iter_batches(ROWS_AT_ONCE, row_groups=[group], use_threads=False)
        for batch in batches:
            if place < first + batch.num_rows:
                return batch.slice(place - first, 1).to_pylist()[0]
            first += batch.num_rows
        raise ValueError(f"row group {group} ends before its row {place}")

    def _opened(self, metadata: Any) -> Any:
        """The file for one thread and one reading."""
        try:
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError as error:
            raise UserError(
                f"{self._file.name}: needs the package pyarrow; install it with: pip install 'dalle-jax[parquet]'"
            ) from error
        try:
            return parquet.ParquetFile(_Parts(self._file), metadata=metadata, pre_buffer=False, buffer_size=2**20)
        except (OSError, ValueError) as error:
            said = " ".join(str(error).split())[:200]
            raise UserError(f"{self._file.name}: expected a parquet file, got something else ({said})") from error


class _Parts(io.RawIOBase):
    """A file, wherever it lies, as pyarrow reads one; the position is this object's own."""

    def __init__(self, file: Stored):
        self._file = file
        self._place = 0

    def readable(self) -> bool:
        """Yes."""
        return True

    def seekable(self) -> bool:
        """Yes."""
        return True

    def tell(self) -> int:
        """The position."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Moves the position and returns it."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._place, io.SEEK_END: self._file.size}[whence]
        self._place = start + offset
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        """So many bytes from the position on, all that follow for -1; fewer where the file ends."""
        left = max(0, self._file.size - self._place)
        content = read(self._file, self._place, left if size is None or size < 0 else min(size, left))
        self._place += len(content)
        return content


def _footer_digest(file: Stored) -> str:
    """Of what a parquet file ends with: its metadata, their length in four bytes, and the mark PAR1."""
    length = int.from_bytes(read(file, file.size - 8, 4), "little")
    footer = read(file, max(0, file.size - 8 - length), length + 8)
    return hashlib.sha256(repr((file.size, footer)).encode()).hexdigest()
