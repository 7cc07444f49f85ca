"""array_record files: records of bytes at random access, read by any thread and any forked process, written whole."""

import functools
import hashlib
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from array_record.python.array_record_module import ArrayRecordReader, ArrayRecordWriter

from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import Stored, read

MOST_OPEN = 256
"""Files that a process keeps open."""
ENDS = 64 * 2**10
"""Bytes at either end of a file that its digest is of: where records lie is at the end."""


class BrokenRecord(Exception):
    """A record whose bytes are not as they were written."""


def count(file: Stored) -> int:
    """The records of a file. Raises UserError for one that is no array_record, or is cut off."""
    reader = _reader(file, os.getpid())
    found = int(reader.num_records())
    if not reader.ok():
        raise UserError(f"{file.name}: expected an array_record file, got something else, or one that is cut off")
    return found


def record(file: Stored, number: int) -> bytes:
    """Record ``number`` of a file. Raises BrokenRecord."""
    try:
        return _reader(file, os.getpid()).read([number])[0]
    except (RuntimeError, IndexError) as error:
        said = str(error).split("; at ")[0] or "there is none"
        raise BrokenRecord(said) from error


def digest(file: Stored) -> str:
    """Changes with the size of a file and with where its records lie in it."""
    ends = read(file, 0, ENDS) + read(file, max(0, file.size - ENDS), ENDS)
    return hashlib.sha256(ends + str(file.size).encode()).hexdigest()[:32]


def write(path: str | os.PathLike[str], records: Iterable[bytes], aside_in: Path | None = None) -> int:
    """Writes a file aside and renames it; returns how many records it holds. Folders are made.

    Each record is compressed by itself, so that one is read without its neighbours. ``aside_in`` is the folder, on the
    same disk, where it is written first (default: the file's own).
    """
    target = Path(path)
    for folder in (target.parent, aside_in or target.parent):
        folder.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=".aside.", dir=aside_in or target.parent)
    os.close(handle)
    try:
        writer: Any = ArrayRecordWriter(aside, "group_size:1")
        written = 0
        for one in records:
            writer.write(one)
            written += 1
        writer.close()
        _sync(aside)
        os.chmod(aside, 0o644)
        os.replace(aside, target)
        _sync(target.parent)
    except RuntimeError as error:
        Path(aside).unlink(missing_ok=True)
        raise UserError(f"cannot write {target}: {str(error)[:200]}") from error
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
    return written


@functools.lru_cache(maxsize=MOST_OPEN)
def _reader(file: Stored, process: int) -> Any:
    """An open file; ``process`` keeps a forked process from reading on its parent's."""
    del process
    about = os.stat(file.name)
    if (about.st_size, str(about.st_mtime_ns)) != (file.size, file.stamp):
        raise UserError(f"{file.name} was changed while it was in use; start again")
    return ArrayRecordReader(file.name, "readahead_buffer_size:0,max_parallelism:0")


def _sync(path: str | os.PathLike[str]) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
