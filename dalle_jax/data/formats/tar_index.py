"""The index of a tar: the byte ranges of its samples, read once from its headers and stored in a small file.

A sample is defined as in webdataset: members that follow each other and share their folder and their name up to its
first dot. The tar is not unpacked, and links are not followed.
"""

import hashlib
import itertools
import json
import os
from array import array
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import DataFile, is_web, read_range
from dalle_jax.data.formats.tar_headers import BrokenTail, TarMember, read_members
from dalle_jax.untrusted import parse_object

ENDING = ".index"
REMOTE_BLOCK = 4 * 2**20
"""Number of bytes in one request for the headers of a tar behind a URL."""

_MAGIC = b"dalle_jax tar index 1\n"
_ARRAYS = {"key_ends": "<i8", "key_hashes": "<u8", "firsts": "<i8", "starts": "<i8", "sizes": "<i8", "kinds": "<u4"}
_REASONS = {
    "link": "is a link in {tar}; links are not followed",
    "not a file": "is a device, a pipe or a sparse file in {tar}",
    "path outside": "has a path in {tar} that leads out of it",
}


@dataclass(frozen=True, eq=False)
class TarIndex:
    """The samples of one tar. Sample s has the members from ``firsts[s]`` to ``firsts[s + 1]``.

    - ``digest``: a digest of all headers.
    - ``problems``: (key, kind, reason) of each member that cannot be used.
    - ``keys``: the keys of all samples, one after the other; ``key_ends`` int64 [S]: the end of each in ``keys``.
    - ``key_hashes`` uint64 [S]: a hash of each key.
    - ``starts`` and ``sizes`` int64 [M]: the byte range of each member's content.
    - ``kinds`` uint32 [M]: the number of each member's extension in ``extensions``.
    """

    file: DataFile
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
        """Return the key of a sample."""
        return _text(self.keys[self.key_ends[sample - 1] if sample else 0 : self.key_ends[sample]])

    def byte_ranges(self, sample: int) -> dict[str, tuple[int, int]]:
        """Return (start, length) of each member of a sample, by extension."""
        members = range(int(self.firsts[sample]), int(self.firsts[sample + 1]))
        return {self.extensions[self.kinds[one]]: (int(self.starts[one]), int(self.sizes[one])) for one in members}

    def bytes_of(self, extension: str) -> np.ndarray:
        """Return the size in bytes of each sample's member with an extension, int64 [S].

        It is -1 without such a member.
        """
        found = np.full(len(self), -1, np.int64)
        if extension in self.extensions:
            members = np.flatnonzero(self.kinds == self.extensions.index(extension))
            found[np.searchsorted(self.firsts, members, side="right") - 1] = self.sizes[members]
        return found


def load_index(file: DataFile, folder: str | None = None) -> tuple[TarIndex, bool]:
    """Load the stored index of a tar, or build it and store it. Return the index, and whether it could be stored.

    It is stored in ``folder``, by default next to the tar. If it cannot be written, the index is still returned.
    Raise ``UserError`` if the file is not a tar.
    """
    next_to_tar = None if is_web(file.name) else file.name + ENDING
    unique = hashlib.sha256(file.name.encode()).hexdigest()[:12]
    in_folder = None if folder is None else os.path.join(folder, f"{file.name.rpartition('/')[2]}.{unique}{ENDING}")
    for name in (in_folder, next_to_tar):
        if name is not None and (found := _stored_index(name, file)) is not None:
            return found, True
    built = build_index(file)
    name = in_folder or next_to_tar
    if name is None:
        return built, False
    try:
        storage.write(storage.place(name), encode_index(built))
    except (OSError, UserError):
        return built, False
    return built, True


def _stored_index(name: str, file: DataFile) -> TarIndex | None:
    """Read a stored index, or return None if it is missing, damaged or outdated."""
    try:
        return decode_index(storage.place(name).read_bytes(), file)
    except (OSError, ValueError):
        return None


def build_index(file: DataFile) -> TarIndex:
    """Index a tar by reading all of its headers. Raises UserError for a file that is not a tar."""
    digest = hashlib.blake2b(digest_size=16)
    samples = _Samples(file)
    try:
        for member in read_members(_reader(file), file.size, file.name, digest):
            samples.add(member)
    except BrokenTail as error:
        name = file.name.rpartition("/")[2]
        samples.problems.append((name, "broken tail", str(error)))
    return samples.index(digest.hexdigest())


def _reader(file: DataFile) -> Callable[[int, int], bytes]:
    """Return the function ``read(start, length)`` for a tar.

    Behind a URL it reads ahead, because a request takes as long as the transfer of several MB.
    """
    if "://" not in file.name:
        return lambda start, length: read_range(file, start, length)
    block_start, block = 0, b""

    def buffered(start: int, length: int) -> bytes:
        nonlocal block_start, block
        if not block_start <= start <= start + length <= block_start + len(block):
            ahead = max(0, min(max(length, REMOTE_BLOCK), file.size - start))
            block_start, block = start, read_range(file, start, ahead)
        return block[start - block_start : start - block_start + length]

    return buffered


class _Samples:
    """The members of a tar in their order, grouped into samples. A member takes only some tens of bytes of memory."""

    def __init__(self, file: DataFile):
        self.file = file
        self.problems: list[tuple[str, str, str]] = []
        self._extensions: dict[bytes, int] = {}
        self._key: bytes | None = None
        self._seen: set[bytes] = set()
        self._keys = bytearray()
        self._arrays = {name: array({"<i8": "q", "<u8": "Q", "<u4": "I"}[kind]) for name, kind in _ARRAYS.items()}

    def add(self, member: TarMember) -> None:
        """Add a member to its sample, or to the problems if it cannot be used."""
        name = member.name
        while name.startswith(b"./"):
            name = name[2:]
        key, extension = _split(name)
        kind = "path outside" if name.startswith(b"/") or b".." in name.split(b"/") else member.kind
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
        """Add a problem of a sample. If several members of a sample have the same problem, it is added once."""
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
    """Split a path at the first dot of its file name into (key, extension); the extension in lower case."""
    folder, slash, last = name.rpartition(b"/")
    stem, _, extension = last.partition(b".")
    return (folder + slash + stem if stem else b""), (extension.lower() if stem else b"")


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")


def encode_index(index: TarIndex) -> bytes:
    """Encode an index as bytes.

    They are a line with the format's name, a checksum of the rest, a line of JSON, the keys and the arrays.
    """
    arrays = {name: getattr(index, name) for name in _ARRAYS}
    header = {
        "size": index.file.size,
        "stamp": index.file.stamp,
        "digest": index.digest,
        "extensions": index.extensions,
        "problems": index.problems,
        "bytes": [len(index.keys), *(values.nbytes for values in arrays.values())],
    }
    rest = b"".join([json.dumps(header).encode(), b"\n", index.keys, *(one.tobytes() for one in arrays.values())])
    return _MAGIC + hashlib.sha256(rest).digest() + rest


def decode_index(content: bytes, file: DataFile) -> TarIndex | None:
    """Decode a stored index of ``file``, or return None if the tar has changed since. Raises ValueError if damaged."""
    magic, rest = content[: len(_MAGIC)], content[len(_MAGIC) + 32 :]
    if magic != _MAGIC or hashlib.sha256(rest).digest() != content[len(_MAGIC) : len(_MAGIC) + 32]:
        raise ValueError("expected an index of this version, got one that is damaged or of a different version")
    line, _, data = rest.partition(b"\n")
    try:
        return _decode(line, data, file)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError("expected the fields of an index, got others") from error


def _decode(line: bytes, data: bytes, file: DataFile) -> TarIndex | None:
    header = parse_object(line)
    if (header["size"], header["stamp"]) != (file.size, file.stamp):
        return None
    ends = list(itertools.accumulate(header["bytes"], initial=0))
    keys, *arrays = [data[start:end] for start, end in itertools.pairwise(ends)]
    return TarIndex(
        file=file,
        digest=header["digest"],
        extensions=tuple(header["extensions"]),
        problems=tuple((key, kind, reason) for key, kind, reason in header["problems"]),
        keys=keys,
        **{name: np.frombuffer(one, kind) for (name, kind), one in zip(_ARRAYS.items(), arrays, strict=True)},
    )
