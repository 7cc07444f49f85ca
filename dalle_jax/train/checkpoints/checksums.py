"""Checksums of a checkpoint: what a disk, a copy or a hand has changed since is found before it is used.

``checksums.json`` holds the size and CRC-32 of every file of its checkpoint. It is written in the thread that saves,
before the rename that makes the files a checkpoint, so that there is none without it. Sealing and checking read every
byte once: CRC-32 went at 1.0 GB a second and thread on a busy Intel Xeon at 2.5 GHz (200 MB in memory), so that disks
set the pace. Behind gs:// nothing is read: the store's own checksums are compared.
"""

import contextlib
import json
import time
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

from dalle_jax import storage
from dalle_jax.storage import Place

FILE = "checksums.json"
STEP_FILE = "_CHECKPOINT_METADATA"
COMMIT_FILE = "commit_success.txt"
"""What Orbax still writes as it commits: the time of that into the first, where to into the second."""

CHUNK_BYTES = 1 << 22
THREADS = 4
"""Files read at once; zlib lets go of Python's lock, so a training loop goes on beside them."""

Sum: TypeAlias = tuple[int, str]
"""Bytes, and their CRC-32 as eight hexadecimal digits; behind a URL the checksum that the store has of its own."""


def seal(folder: Place) -> None:
    """Writes ``checksums.json`` for all that lies in ``folder``; reads every file once."""
    names = sorted(storage.files(folder).keys() - {FILE, STEP_FILE, COMMIT_FILE})
    if storage.is_remote(folder):
        sums = _kept_by_the_store(folder)
    else:
        with ThreadPoolExecutor(THREADS) as pool:
            sums = dict(zip(names, pool.map(lambda name: checksum(folder / name), names), strict=True))
    record = {STEP_FILE: _step_record(folder), "files": {name: sums[name] for name in names}}
    body = json.dumps(record, sort_keys=True).encode()
    storage.write(folder / FILE, f"{zlib.crc32(body):08x}\n".encode() + body)


def await_step(folder: Place, custom: Mapping[str, Any]) -> None:
    """Waits until Orbax has put the custom metadata of a step into its file, which it does in a thread of its own.

    A seal made before that would not be of what is there afterwards. Raises OSError where it takes a minute.
    """
    deadline = time.monotonic() + 60
    while True:
        with contextlib.suppress(ValueError):  # half of it is there
            if json.loads(_read(folder, STEP_FILE)).get("custom_metadata") == custom:
                return
        if time.monotonic() > deadline:
            raise OSError(f"{STEP_FILE} was not written within a minute")
        time.sleep(0.002)


def damage(folder: Place, needed: Callable[[str], bool] | None = None, share: tuple[int, int] = (0, 1)) -> str | None:
    """What is wrong with a sealed checkpoint, in one line; None where nothing is. Reads every file once.

    ``needed`` chooses files by name (default: all). ``share=(2, 8)`` looks at the third of eight parts of them, for
    processes that share the work.
    """
    try:
        record = _record(folder)
        if _step_record(folder) != record[STEP_FILE]:
            return f"{STEP_FILE} is not as it was written"
    except ValueError as error:
        return str(error)
    names = sorted(name for name in record["files"] if needed is None or needed(name))[share[0] :: share[1]]
    now = _kept_by_the_store(folder) if storage.is_remote(folder) else {}

    def difference(name: str) -> str | None:
        try:
            found = now[name] if now else checksum(folder / name)
        except (KeyError, OSError) as error:
            return _unreadable(name, error)
        return _difference(name, found, *record["files"][name])

    with ThreadPoolExecutor(THREADS) as pool:
        return next((line for line in pool.map(difference, names) if line is not None), None)


def _kept_by_the_store(folder: Place) -> dict[str, Sum]:
    sizes = storage.files(folder)
    return {name: (sizes[name], value) for name, value in storage.stored_checksums(folder).items()}


def checksum(file: Place) -> Sum:
    """Size and CRC-32 of a file."""
    size, value = 0, 0
    with file.open("rb") as stream:
        while chunk := stream.read(CHUNK_BYTES):
            size, value = size + len(chunk), zlib.crc32(chunk, value)
    return size, f"{value:08x}"


def _difference(name: str, now: Sum, size: int, value: str) -> str | None:
    if now[0] != size:
        return f"{name} has {now[0]} bytes, {size} were written"
    return None if now[1] == value else f"{name} is not as it was written: its checksum is {now[1]} and was {value}"


def _unreadable(name: str, error: Exception) -> str:
    if isinstance(error, KeyError | FileNotFoundError):
        return f"{name} is missing"
    return f"{name} cannot be read: {getattr(error, 'strerror', None) or error}"


def _read(folder: Place, name: str) -> bytes:
    try:
        return (folder / name).read_bytes()
    except OSError as error:
        raise ValueError(_unreadable(name, error)) from error


def _record(folder: Place) -> dict[str, Any]:
    """What ``seal`` wrote, with the CRC-32 of its own that stands before it."""
    value, _, body = _read(folder, FILE).partition(b"\n")
    if value != f"{zlib.crc32(body):08x}".encode():
        raise ValueError(f"{FILE} is not as it was written")
    return json.loads(body)


def _step_record(folder: Place) -> str:
    """CRC-32 of Orbax's own file of a step without the time of the commit, which it adds at the very end."""
    content = _read(folder, STEP_FILE)
    try:
        record = dict(json.loads(content))
    except (ValueError, TypeError) as error:
        raise ValueError(f"{STEP_FILE} is not as it was written") from error
    record.pop("commit_timestamp_nsecs", None)
    return f"{zlib.crc32(json.dumps(record, sort_keys=True).encode()):08x}"
