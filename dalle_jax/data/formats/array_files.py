"""array_record files: records of bytes with random access, for any threads and forked processes."""

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import DataFile, read_range

MAX_OPEN_FILES = 256
"""Largest number of files that a process keeps open."""
ENDS = 64 * 2**10
"""Number of bytes at each end of a file that its digest covers. The end has the index of the file's records."""


class BrokenRecord(Exception):
    """A record whose bytes have changed since it was written."""


def count_records(file: DataFile) -> int:
    """Return the number of records. Raises UserError if the file is cut off or not an array_record file."""
    reader = _reader(file, os.getpid())
    found = int(reader.num_records())
    if not reader.ok():
        raise UserError(f"{file.name}: expected an array_record file, got one that is cut off or of a different format")
    return found


def read_record(file: DataFile, number: int) -> bytes:
    """Read record ``number``. Raises BrokenRecord if it is damaged."""
    try:
        return _reader(file, os.getpid()).read([number])[0]
    except (RuntimeError, IndexError) as error:
        raise BrokenRecord(str(error).split("; at ")[0] or f"the file has no record {number}") from error


def digest(file: DataFile) -> str:
    """Return a digest of a file's size, its first bytes and its last bytes.

    The last bytes are the index of its records, so the digest changes with the records.
    """
    ends = read_range(file, 0, ENDS) + read_range(file, max(0, file.size - ENDS), ENDS)
    return hashlib.sha256(ends + str(file.size).encode()).hexdigest()[:32]


def write(path: str | os.PathLike[str], records: Iterable[bytes], temporary_folder: Path | None = None) -> int:
    """Write a file atomically, and return its number of records. Missing folders are created.

    The file is written into ``temporary_folder`` (by default its own folder), which must be on the same disk, and then
    renamed. Each record is compressed by itself, so that reading one does not read its neighbours.
    """
    target = Path(path)
    for folder in (target.parent, temporary_folder or target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=".temporary.", dir=temporary_folder or target.parent)
    os.close(handle)
    try:
        writer = ArrayRecordWriter(temporary, "group_size:1")
        written = 0
        for one in records:
            writer.write(one)
            written += 1
        writer.close()
        _sync(temporary)
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
        _sync(target.parent)
    except RuntimeError as error:
        Path(temporary).unlink(missing_ok=True)
        raise UserError(f"cannot write {target}: {str(error)[:200]}") from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return written


@functools.lru_cache(maxsize=MAX_OPEN_FILES)
def _reader(file: DataFile, process: int) -> ArrayRecordReader:
    """Open a file. ``process`` is part of the cache key, since a forked process must not use its parent's reader."""
    del process
    status = os.stat(file.name)
    if (status.st_size, str(status.st_mtime_ns)) != (file.size, file.stamp):
        raise UserError(f"{file.name} was changed while it was in use; start again")
    return ArrayRecordReader(file.name, "readahead_buffer_size:0,max_parallelism:0")


def _sync(path: str | os.PathLike[str]) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
