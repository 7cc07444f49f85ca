"""Where each sample of a tar stands: read once from its headers, kept in a small file beside it or in a folder of ours.

Members are samples by webdataset's rule: those that follow each other and share folder and name up to the name's first
dot. Nothing is unpacked, and no link is followed.
"""

import hashlib
import itertools
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import Stored, is_web, read
from dalle_jax.data.formats.tar_headers import BrokenTail, Member, members

ENDING = ".index"
REMOTE_BLOCK = 4 * 2**20
"""Bytes of one request while the headers of a tar behind a URL are read."""

_MAGIC = b"dalle_jax tar index 1\n"
_ARRAYS = {"key_ends": "<i8", "key_hashes": "<u8", "firsts": "<i8", "starts": "<i8", "sizes": "<i8", "kinds": "<u4"}
_REASONS = {
    "link": "is a link in {tar}; links are not followed",
    "not a file": "is a device, a sparse file or the like in {tar}",
    "path outside": "has a path in {tar} that leads out of it",
}


@dataclass(frozen=True, eq=False)
class TarIndex:
    """The samples of one tar; members of sample s are those from ``firsts[s]`` to ``firsts[s + 1]``.

    ``key_ends`` int64 [S] says where in ``keys`` each sample's key ends, ``key_hashes`` uint64 [S] is one number for
    each; ``starts`` and ``sizes`` int64 [M] are the bytes of each member's content, ``kinds`` uint32 [M] its place in
    ``extensions``. ``digest`` is of all headers. ``problems`` are (key, kind, reason).
    """

    file: Stored
    digest: str
    extensions: tuple[str, ...]
    problems: tuple[tuple[str, str, str], ...]
    keys: bytes
    key_ends: np.ndarray
    key_hashes: np.ndarray
    firsts: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray
    kinds: np.ndarray

    def __len__(self) -> int:
        return len(self.key_ends)

    def key(self, sample: int) -> str:
        """The name of a sample."""
        return _text(self.keys[self.key_ends[sample - 1] if sample else 0 : self.key_ends[sample]])

    def spans(self, sample: int) -> dict[str, tuple[int, int]]:
        """(start, bytes) of each of a sample's members, by their extensions."""
        whole = range(int(self.firsts[sample]), int(self.firsts[sample + 1]))
        return {self.extensions[self.kinds[one]]: (int(self.starts[one]), int(self.sizes[one])) for one in whole}

    def bytes_of(self, extension: str) -> np.ndarray:
        """The bytes of each sample's member with an extension, -1 where it has none: int64 [S]."""
        found = np.full(len(self), -1, np.int64)
        if extension in self.extensions:
            where = np.flatnonzero(self.kinds == self.extensions.index(extension))
            found[np.searchsorted(self.firsts, where, side="right") - 1] = self.sizes[where]
        return found


def index(file: Stored, folder: str | None = None) -> tuple[TarIndex, bool]:
    """The index of a tar, and whether it is stored: one that was stored before and fits, else a new one.

    It is stored in ``folder`` if one is given, else beside the tar; where that cannot be written, it is not. Raises
    UserError for a file that is no tar.
    """
    beside = None if is_web(file.name) else file.name + ENDING
    unique = hashlib.sha256(file.name.encode()).hexdigest()[:12]
    aside = None if folder is None else os.path.join(folder, f"{file.name.rpartition('/')[2]}.{unique}{ENDING}")
    for name in (aside, beside):
        if name is not None and (found := _stored_index(name, file)) is not None:
            return found, True
    made = build(file)
    name = aside or beside
    if name is None:
        return made, False
    try:
        storage.write(storage.place(name), encoded(made))
    except (OSError, UserError):
        return made, False
    return made, True


def _stored_index(name: str, file: Stored) -> TarIndex | None:
    try:
        return decoded(storage.place(name).read_bytes(), file)
    except (OSError, ValueError):  # not there, or not whole
        return None


def build(file: Stored) -> TarIndex:
    """Reads all headers of a tar. Raises UserError for a file that is no tar."""
    digest = hashlib.blake2b(digest_size=16)
    samples = _Samples(file)
    try:
        for member in members(_reader(file), file.size, file.name, digest):
            samples.add(member)
    except BrokenTail as error:
        name = file.name.rpartition("/")[2]
        samples.problems.append((name, "broken tail", str(error)))
    return samples.index(digest.hexdigest())


def _reader(file: Stored) -> Callable[[int, int], bytes]:
    """``read(start, length)``. Behind a URL a request takes as long as megabytes, and gets what follows with it."""
    if "://" not in file.name:
        return lambda start, length: read(file, start, length)
    block_start, block = 0, b""

    def buffered(start: int, length: int) -> bytes:
        nonlocal block_start, block
        if not block_start <= start <= start + length <= block_start + len(block):
            wanted = max(0, min(max(length, REMOTE_BLOCK), file.size - start))
            block_start, block = start, read(file, start, wanted)
        return block[start - block_start : start - block_start + length]

    return buffered


class _Samples:
    """Members as they come, grouped into samples; some tens of bytes are kept of each."""

    def __init__(self, file: Stored):
        self.file = file
        self.problems: list[tuple[str, str, str]] = []
        self._extensions: dict[bytes, int] = {}
        self._key: bytes | None = None
        self._seen: set[bytes] = set()
        self._keys = bytearray()
        self._arrays = {name: array({"<i8": "q", "<u8": "Q", "<u4": "I"}[kind]) for name, kind in _ARRAYS.items()}

    def add(self, member: Member) -> None:
        name = member.name
        while name.startswith(b"./"):
            name = name[2:]
        key, extension = _split(name)
        kind = "path outside" if name.startswith(b"/") or b".." in name.split(b"/") else member.what
        if kind in _REASONS:
            self._problem(key or name, kind)
        if kind != "file" or not extension:
            return
        if key != self._key or extension in self._seen:
            self._begin(key)
        self._seen.add(extension)
        self._arrays["starts"].append(member.start)
        self._arrays["sizes"].append(member.size)
        self._arrays["kinds"].append(self._extensions.setdefault(extension, len(self._extensions)))

    def _begin(self, key: bytes) -> None:
        self._key, self._seen = key, set()
        self._keys += key
        self._arrays["key_ends"].append(len(self._keys))
        self._arrays["key_hashes"].append(int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "little"))
        self._arrays["firsts"].append(len(self._arrays["starts"]))

    def _problem(self, key: bytes, kind: str) -> None:
        """One for all members of a sample that have it."""
        reason = _REASONS[kind].format(tar=self.file.name.rpartition("/")[2])
        if not self.problems or self.problems[-1][:2] != (_text(key), kind):
            self.problems.append((_text(key), kind, reason))

    def index(self, digest: str) -> TarIndex:
        self._arrays["firsts"].append(len(self._arrays["starts"]))
        return TarIndex(
            file=self.file,
            digest=digest,
            extensions=tuple(map(_text, self._extensions)),
            problems=tuple(self.problems),
            keys=bytes(self._keys),
            **{name: np.frombuffer(values, _ARRAYS[name]) for name, values in self._arrays.items()},
        )


def _split(name: bytes) -> tuple[bytes, bytes]:
    """(key, extension): the path up to the first dot of its last part, and what follows in small letters."""
    folder, slash, last = name.rpartition(b"/")
    stem, _, extension = last.partition(b".")
    return (folder + slash + stem if stem else b""), (extension.lower() if stem else b"")


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def encoded(index: TarIndex) -> bytes:
    """An index as it is stored: a line that names the format, a checksum of the rest; a line of JSON, keys, arrays."""
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    about = {
        "size": index.file.size,
        "stamp": index.file.stamp,
        "digest": index.digest,
        "extensions": index.extensions,
        "problems": index.problems,
        "bytes": [len(index.keys), *(values.nbytes for values in arrays.values())],
    }
    rest = b"".join([json.dumps(about).encode(), b"\n", index.keys, *(one.tobytes() for one in arrays.values())])
    return _MAGIC + hashlib.sha256(rest).digest() + rest


def decoded(content: bytes, file: Stored) -> TarIndex | None:
    """The index of ``file`` out of what was stored, None if the tar has been written since; ValueError if damaged."""
    magic, rest = content[: len(_MAGIC)], content[len(_MAGIC) + 32 :]
    if magic != _MAGIC or hashlib.sha256(rest).digest() != content[len(_MAGIC) : len(_MAGIC) + 32]:
        raise ValueError("damaged, or of another version")
    line, _, data = rest.partition(b"\n")
    about: dict[str, Any] = json.loads(line)
    if (about["size"], about["stamp"]) != (file.size, file.stamp):
        return None
    ends = list(itertools.accumulate(about["bytes"], initial=0))
    keys, *parts = [data[start:end] for start, end in itertools.pairwise(ends)]
    return TarIndex(
        file=file,
        digest=about["digest"],
        extensions=tuple(about["extensions"]),
        problems=tuple((key, kind, reason) for key, kind, reason in about["problems"]),
        keys=keys,
        **{name: np.frombuffer(part, kind) for (name, kind), part in zip(_ARRAYS.items(), parts, strict=True)},
    )
