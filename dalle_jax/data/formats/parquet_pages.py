"""Headers of parquet's pages: the memory that decoding takes, as the pages say and not the footer.

A footer's sizes are claims that no reader checks. A page of a few kB may decompress to GiB, or be a dictionary whose
one large value stands in every row. A page header is in the compact protocol of Thrift; its fields are those of
PageHeader in parquet.thrift (https://github.com/apache/parquet-format).
"""

from collections.abc import Iterator
from typing import Protocol, TypeAlias, runtime_checkable

from dalle_jax.data.files.ranges import DataFile, read_range
from dalle_jax.untrusted import Budget

UNCOMPRESSED_SIZE, COMPRESSED_SIZE = 2, 3
"""Fields of PageHeader: the sizes of the page without its header, in bytes."""
READ_BYTES = (512, 2**16, 2**22)
"""Bytes to read for a header; further ones are read if it is longer, which statistics make it."""
MAX_DEPTH = 8
"""Largest depth of structures within a header."""

Fields: TypeAlias = dict[int, int]
"""Whole numbers of a structure by the number of their field."""


@runtime_checkable
class ColumnChunk(Protocol):
    """The part of ``pyarrow.parquet.ColumnChunkMetaData`` that is used here."""

    path_in_schema: str
    data_page_offset: int
    dictionary_page_offset: int | None
    total_compressed_size: int


@runtime_checkable
class RowGroup(Protocol):
    """The part of ``pyarrow.parquet.RowGroupMetaData`` that is used here."""

    num_rows: int
    num_columns: int

    def column(self, number: int) -> ColumnChunk: ...


def largest_page(file: DataFile, group: RowGroup, columns: frozenset[str] | None = None) -> int:
    """Return the size of the largest page of a row group, uncompressed, at least 1 byte.

    A value takes at most the size of a page. ``columns`` selects columns by name. Raise ValueError for a broken header,
    and ``OverBudget`` for a page that takes more memory than the file's size justifies.
    """
    largest = 1
    for number in range(group.num_columns):
        chunk = group.column(number)
        if columns is None or chunk.path_in_schema.partition(".")[0] in columns:
            for size in _page_sizes(file, chunk):
                Budget(file.size).spend(size)
                largest = max(largest, size)
    return largest


def _page_sizes(file: DataFile, chunk: ColumnChunk) -> Iterator[int]:
    """Yield the uncompressed size of each page of a column chunk."""
    start = chunk.data_page_offset
    if chunk.dictionary_page_offset is not None and 0 < chunk.dictionary_page_offset < start:
        start = chunk.dictionary_page_offset
    end = start + chunk.total_compressed_size
    if not 0 <= start <= end <= file.size:
        raise ValueError(f"a column of bytes {start} to {end} in a file of {file.size} bytes")
    while start < end:
        fields, length = _header(file, start, end - start)
        sizes = fields.get(UNCOMPRESSED_SIZE, -1), fields.get(COMPRESSED_SIZE, -1)
        if min(sizes) < 0:
            raise ValueError("a page of negative size, or without one")
        yield sizes[0]
        start += length + sizes[1]


def _header(file: DataFile, start: int, most: int) -> tuple[Fields, int]:
    """Read a page's header; return its fields and its length."""
    for length in READ_BYTES:
        content = read_range(file, start, min(length, most))
        try:
            reader = _Compact(content)
            return reader.struct(MAX_DEPTH), reader.position
        except IndexError as error:
            if len(content) < length or length == READ_BYTES[-1]:
                raise ValueError("a page whose header does not end") from error
    raise AssertionError("unreachable")


class _Compact:
    """A reader of Thrift's compact protocol that keeps whole numbers and passes over all else.

    Raises IndexError at the end of the content.
    """

    def __init__(self, content: bytes):
        self._content, self.position = content, 0

    def struct(self, depth: int) -> Fields:
        """Read a structure; those within it are passed over."""
        found: Fields = {}
        field = 0
        while (head := self._byte()) != 0:
            kind = head & 15
            field = field + (head >> 4) if head >> 4 else _signed(self._number())
            value = self._value(kind, depth)
            if value is not None:
                found[field] = value
        return found

    def _value(self, kind: int, depth: int, in_list: bool = False) -> int | None:
        if depth == 0:
            raise ValueError("a page header nested too deeply")
        if kind in (1, 2):  # true and false: in a list a byte each, else part of the field's head
            self.position += in_list
        elif kind == 3:
            self._byte()
        elif kind in (4, 5, 6):
            return _signed(self._number())
        elif kind == 7:
            self.position += 8
        elif kind == 8:
            length = self._number()
            self.position += length
        elif kind in (9, 10):
            head = self._byte()
            for _ in range(self._number() if head >> 4 == 15 else head >> 4):
                self._value(head & 15, depth - 1, in_list=True)
        elif kind == 12:
            self.struct(depth - 1)
        else:
            raise ValueError(f"a page header with the type {kind}")
        return None

    def _byte(self) -> int:
        self.position += 1
        return self._content[self.position - 1]

    def _number(self) -> int:
        """Read an unsigned number in groups of 7 bits, lowest first."""
        found = shift = 0
        while shift < 70:
            byte = self._byte()
            found |= (byte & 127) << shift
            if byte < 128:
                return found
            shift += 7
        raise ValueError("a page header with a number of more than 64 bits")


def _signed(number: int) -> int:
    """Undo the zigzag form of a signed number."""
    return (number >> 1) ^ -(number & 1)
