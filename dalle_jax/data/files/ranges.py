"""Reading parts of files, wherever they lie: on this machine, behind gs:// and s3://, on a web server.

Nothing here has a position in a file, so threads and forked processes share it all.
"""

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files import http_ranges

MOST_OPEN = 16
"""Files of this machine that a process keeps open."""
MOST_BETWEEN = 4096
"""Bytes between two wanted parts that are cheaper read along than left out by a second request."""


@dataclass(frozen=True)
class Stored:
    """A file as it was when it was looked at: ``stamp`` is its time or checksum, another when it is written again."""

    name: str
    size: int
    stamp: str


def is_web(name: str) -> bool:
    """Whether a web server offers it: such a file can be read, and nothing can be listed or written."""
    return name.partition("://")[0] in http_ranges.SCHEMES and "://" in name


def stored(name: str) -> Stored:
    """Looks at a file. Raises UserError if it is not there."""
    try:
        size, stamp = http_ranges.described(name) if is_web(name) else storage.size_and_version(storage.place(name))
    except OSError as error:
        raise UserError(f"cannot read {name}: {error.strerror or 'no such file'}") from error
    return Stored(name, size, stamp)


def read(file: Stored, start: int, length: int) -> bytes:
    """``length`` bytes from ``start`` on, fewer where the file ends. UserError if it cannot be read, or changed."""
    try:
        if is_web(file.name):
            return http_ranges.read_part(file.name, start, length)
        if "://" in file.name:
            return storage.read_range(storage.place(file.name), start, length)
        return _read_here(file, start, length)
    except OSError as error:
        raise UserError(f"cannot read {file.name}: {error.strerror or 'no such file'}") from error


def read_all(file: Stored, spans: Sequence[tuple[int, int]]) -> list[bytes]:
    """The parts of a file at ``spans`` of (start, length), in one request where they stand close together.

    Raises UserError for a part that reaches beyond the file's end: it is another file than the one looked at.
    """
    first = min(start for start, _ in spans)
    last = max(start + length for start, length in spans)
    if last - first <= sum(length for _, length in spans) + MOST_BETWEEN * (len(spans) - 1):
        whole = read(file, first, last - first)
        parts = [whole[start - first : start - first + length] for start, length in spans]
    else:
        parts = [read(file, start, length) for start, length in spans]
    if any(len(part) != length for part, (_, length) in zip(parts, spans, strict=True)):
        raise _changed(file)
    return parts


def _read_here(file: Stored, start: int, length: int) -> bytes:
    opened = _opened(file)
    content = os.pread(opened.number, length, start)
    while content and len(content) < length:  # Linux gives at most 2 GiB at once, network drives less
        more = os.pread(opened.number, length - len(content), start + len(content))
        if not more:
            break
        content += more
    return content


class _Opened:
    """An open file of this machine; it is closed when the last thread that reads it lets go."""

    def __init__(self, file: Stored):
        self.number = -1
        self.number = os.open(file.name, os.O_RDONLY | os.O_CLOEXEC)
        about = os.fstat(self.number)
        if (about.st_size, str(about.st_mtime_ns)) != (file.size, file.stamp):
            raise _changed(file)

    def __del__(self) -> None:
        if self.number >= 0:
            os.close(self.number)


@functools.lru_cache(maxsize=MOST_OPEN)
def _opened(file: Stored) -> _Opened:
    return _Opened(file)


def _changed(file: Stored) -> UserError:
    return UserError(f"{file.name} was changed while it was in use; start again")
