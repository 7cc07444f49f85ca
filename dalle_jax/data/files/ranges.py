"""Reading of byte ranges of files: on this machine, behind gs:// and s3://, or on a web server.

No function keeps a position in a file, so threads and forked processes may share its open files.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files import http_ranges

MAX_OPEN_FILES = 16
"""Largest number of files of this machine that a process keeps open."""
MAX_GAP = 4096
"""Largest gap, in bytes, between two ranges that one request reads together. Two requests would take longer."""


@dataclass(frozen=True)
class DataFile:
    """A file's path or URL, its size, and a version stamp that changes when the file does (a time or a checksum)."""

    name: str
    size: int
    stamp: str


def is_web(name: str) -> bool:
    """Return whether a name is a web server's URL. Files there can be read, but not listed or written."""
    return name.partition("://")[0] in http_ranges.SCHEMES and "://" in name


def find_file(name: str) -> DataFile:
    """Look up a file's size and version stamp. Raises UserError if the file does not exist."""
    try:
        found = http_ranges.size_and_stamp(name) if is_web(name) else storage.size_and_version(storage.place(name))
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or 'no such file'}") from error
    return DataFile(name, *found)


def read_range(file: DataFile, start: int, length: int) -> bytes:
    """Read ``length`` bytes from byte ``start`` on, fewer at the file's end.

    Raises UserError if the file cannot be read or has changed.
    """
    try:
        if is_web(file.name):
            return http_ranges.read_url_range(file.name, start, length)
        if "://" in file.name:
            return storage.read_range(storage.place(file.name), start, length)
        return _read_here(file, start, length)
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or 'no such file'}") from error


def read_byte_ranges(file: DataFile, byte_ranges: Sequence[tuple[int, int]]) -> list[bytes]:
    """Read several ranges (start, length) of a file. Ranges that are close together are read by one request.

    Raises UserError for a range beyond the file's end, which means that the file has changed.
    """
    first = min(start for start, _ in byte_ranges)
    last = max(start + length for start, length in byte_ranges)
    if last - first <= sum(length for _, length in byte_ranges) + MAX_GAP * (len(byte_ranges) - 1):
        whole = read_range(file, first, last - first)
        contents = [whole[start - first : start - first + length] for start, length in byte_ranges]
    else:
        contents = [read_range(file, start, length) for start, length in byte_ranges]
    if any(len(content) != length for content, (_, length) in zip(contents, byte_ranges, strict=True)):
        raise _changed(file)
    return contents


def _read_here(file: DataFile, start: int, length: int) -> bytes:
    opened = _opened(file)
    content = os.pread(opened.number, length, start)
    while content and len(content) < length:  # Linux gives at most 2 GiB at once, network drives less
        more = os.pread(opened.number, length - len(content), start + len(content))
        if not more:
            break
        content += more
    return content


class _OpenFile:
    """An open file of this machine. It is closed when no thread uses it any more."""

    def __init__(self, file: DataFile):
        self.number = -1
        self.number = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        status = os.fstat(self.number)
        if (status.st_size, str(status.st_mtime_ns)) != (file.size, file.stamp):
            raise _changed(file)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@functools.lru_cache(maxsize=MAX_OPEN_FILES)
def _opened(file: DataFile) -> _OpenFile:
    return _OpenFile(file)


def _changed(file: DataFile) -> UserError:
    return UserError(f"{file.name} was changed while it was in use; start again")
