"""Captioned images in array_record files of our own layout (data/formats/array_record_layout.py)."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from dalle_jax.config.errors import UserError
from dalle_jax.config.schema import PER_HOST
from dalle_jax.data.files.cache import local
from dalle_jax.data.files.patterns import named
from dalle_jax.data.files.ranges import stored
from dalle_jax.data.formats import array_files
from dalle_jax.data.formats.array_record_layout import decoded, encoded
from dalle_jax.data.formats.row_files import RowRecords
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
"""Goes up whenever the same files and configuration would give other records."""
SUFFIXES = (".array_record", ".arrayrecord")


@dataclass(frozen=True)
class ArrayRecord:
    """The records of the array_record files that ``files`` name: files, folders, patterns, URLs
    (data/files/patterns.py).

    A file behind a URL is copied once to ``copies``, a folder of this machine. An image of more than ``max_bytes`` is
    bad.
    """

    files: tuple[str, ...]
    max_bytes: int = 64 * 2**20
    copies: str | None = field(default=None, metadata=PER_HOST)

    def open(self) -> "ArrayRecordRecords":
        """The records. Raises UserError where there are no such files, and for one that is no array_record."""
        if self.max_bytes < 1:
            raise UserError(f"array_record files: max_bytes must be at least 1, got {self.max_bytes}")
        return ArrayRecordRecords(self)


class ArrayRecordRecords(RowRecords):
    """``Records`` in the order of the files' names."""

    def __init__(self, config: ArrayRecord):
        self._config = config
        names = named(config.files, SUFFIXES)
        self._files = [local(stored(name), config.copies, "source.copies") for name in names]
        super().__init__(config.files, names, [array_files.count(file) for file in self._files])

    def __getitem__(self, index: int) -> Record:
        file, row = self._rows.find(index)
        key = self.key(index)
        try:
            content = array_files.record(self._files[file], row)
        except array_files.BrokenRecord as error:
            raise BadRecord(key, "broken record", f"its bytes are not as they were written: {error}") from error
        return decoded(key, content, self._config.max_bytes)

    def fingerprint(self) -> str:
        """A digest of the configuration and of the files' sizes and ends, which say where their records lie."""
        parts = (VERSION, self._config.max_bytes, [array_files.digest(file) for file in self._files])
        return "array_record-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]


def write(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Writes records of another source as a file of this one, aside and renamed; returns how many.

    What a record was called goes into its ``about`` as ``key``, where nothing else has that name.
    """
    return array_files.write(path, (encoded(one.image, one.captions, {"key": one.key, **one.about}) for one in records))
