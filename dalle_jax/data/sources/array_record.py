"""Captioned images in array_record files of our own layout (data/formats/array_record_layout.py)."""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass, field

from dalle_jax.config.schema import PER_HOST
from dalle_jax.data.files.cache import local_file
from dalle_jax.data.files.patterns import find_files
from dalle_jax.data.formats import array_files
from dalle_jax.data.formats.array_record_layout import decode_record, encode_record
from dalle_jax.data.formats.config_checks import check_config
from dalle_jax.data.formats.row_files import RowRecords, short_names
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
"""Increase this whenever the same files and config give different records."""
SUFFIXES = (".array_record", ".arrayrecord")


@dataclass(frozen=True)
class ArrayRecord:
    """The records of array_record files.

    ``files`` are files, folders, patterns and URLs (data/files/patterns.py). A file behind a URL is downloaded once
    into ``cache``, a folder of this machine. An image of more than ``max_bytes`` is a bad record.
    """

    files: tuple[str, ...]
    max_bytes: int = 64 * 2**20
    cache: str | None = field(default=None, metadata=PER_HOST)

    def open(self) -> "ArrayRecordRecords":
        """Open the files. Raises UserError if a file is missing or not an array_record file."""
        check_config("array_record files", {"max_bytes": self.max_bytes})
        return ArrayRecordRecords(self)


class ArrayRecordRecords(RowRecords):
    """``Records`` of array_record files, in the order of the files' names."""

    def __init__(self, config: ArrayRecord):
        self._config = config
        files = find_files(config.files, SUFFIXES)
        self._files = [local_file(file, config.cache, "source.cache") for file in files]
        labels = short_names(file.name for file in files)
        super().__init__(", ".join(config.files), labels, [array_files.count_records(file) for file in self._files])

    def read_row(self, key: str, file: int, row: int) -> Record:
        """Read and decode a row. Raises BadRecord."""
        try:
            content = array_files.read_record(self._files[file], row)
        except array_files.BrokenRecord as error:
            raise BadRecord(key, "broken record", f"its bytes have changed since it was written: {error}") from error
        return decode_record(key, content, self._config.max_bytes)

    def fingerprint(self) -> str:
        """Return a digest of the config, and of each file's size, first bytes and last bytes (its index)."""
        content = (VERSION, self._config.max_bytes, [array_files.digest(file) for file in self._files])
        return "array_record-" + hashlib.sha256(repr(content).encode()).hexdigest()[:16]


def write(path: str | os.PathLike[str], records: Iterable[Record]) -> int:
    """Write records of any source as a file for ``ArrayRecord``, atomically, and return their number.

    A record's key goes into its metadata as ``key``, unless the metadata has a field of this name.
    """
    contents = (encode_record(one.image, one.captions, {"key": one.key, **one.metadata}) for one in records)
    return array_files.write(path, contents)
