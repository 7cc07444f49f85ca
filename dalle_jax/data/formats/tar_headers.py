"""The headers of a tar, read without its members' contents: POSIX ustar and pax, GNU, v7.

POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format".
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

from dalle_jax.config.errors import UserError

BLOCK = 512
MAX_LONG_NAME_BYTES = 2**20
"""Largest size, in bytes, of a GNU long name or of a pax header."""

_ZEROS = bytes(BLOCK)
_FILES = b"0\x007"
_LINKS = b"12"
_WITHOUT_CONTENT = b"123456"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class TarMember(NamedTuple):
    """A member of a tar. ``kind`` is "file", "folder" or "link", and "not a file" for a device, for example."""

    kind: str
    name: bytes
    start: int
    size: int


class BrokenTail(Exception):
    """A tar that cannot be read to its end. The members before the fault can be used."""


@runtime_checkable
class Digest(Protocol):
    """A running digest, such as hashlib's."""

    def update(self, content: bytes, /) -> None:
        """Add bytes to the digest."""


def read_members(read: Callable[[int, int], bytes], size: int, name: str, digest: Digest) -> Iterator[TarMember]:
    """Yield the members of a tar of ``size`` bytes. ``read(start, length)`` returns its bytes, fewer at its end.

    Every header is added to ``digest``. Raises UserError, with the tar's ``name``, if the first header is not a tar's.
    Raises BrokenTail if a later part is cut off or damaged.
    """
    position, extended = 0, _Extended()
    while True:
        block = read(position, BLOCK)
        if len(block) < BLOCK:
            raise BrokenTail("is empty" if not size else f"ends at byte {size} without the two blocks that end a tar")
        if block == _ZEROS:
            following = read(position + BLOCK, BLOCK)
            if len(following) < BLOCK or following == _ZEROS:
                return
            position += BLOCK
            continue
        digest.update(block)
        try:
            kind, path, length = _header(block)
            start = position + BLOCK
            if kind in b"xXgLK":
                content = _long(read, start, length)
                digest.update(content)
                extended.add(kind, content)
                position = start + _padded(length)
                continue
        except ValueError as error:
            if position == 0:
                raise UserError(f"{name}: expected a tar, got {_describe(block)}") from error
            raise BrokenTail(f"cannot be read from byte {position} on: {error}") from error
        if kind == b"S":
            start = _content_after_map(read, start, block)
        if extended.size is not None:
            length = extended.size
        if kind in _WITHOUT_CONTENT:
            length = 0
        path = extended.path if extended.path is not None else path
        if start + length > size:
            raise BrokenTail(f"ends at byte {size} within the member {path.decode(errors='backslashreplace')}")
        yield TarMember(_kind(kind, path, extended.sparse), path, start, length)
        position, extended = start + _padded(length), _Extended()


class _Extended:
    """The path and size of a member, if extension headers before its own header give them (GNU long name, pax)."""

    def __init__(self) -> None:
        self.path: bytes | None = None
        self.size: int | None = None
        self.sparse = False

    def add(self, kind: bytes, content: bytes) -> None:
        """Add the fields of one extension header.

        Global headers ("g") and long links ("K") have neither a path nor a size.
        """
        if kind == b"L":
            self.path = content.partition(b"\0")[0]
        if kind not in b"xX":
            return
        for keyword, value in _pax_records(content):
            if keyword == b"path" and not self.sparse:
                self.path = value
            elif keyword == b"size":
                self.size = _digits(value, 10)
            elif keyword.startswith(b"GNU.sparse."):
                self.sparse = True
                if keyword == b"GNU.sparse.name":
                    self.path = value


def _header(block: bytes) -> tuple[bytes, bytes, int]:
    """Parse a header into (type, name, size). Raises ValueError for a block that is not a header."""
    checksum = _number(block[148:156])
    if checksum != 256 + sum(block[:148]) + sum(block[156:]):
        signed = sum(byte - 256 * (byte > 127) for byte in block[:148] + block[156:])  # as some old tars counted
        if checksum != 256 + signed:
            raise ValueError("the header's checksum is wrong")
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return block[156:157], name, _number(block[124:136])


def _number(field: bytes) -> int:
    """Parse a number of a header: octal digits, or GNU's big-endian bytes after 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _digits(field.partition(b"\0")[0].strip() or b"0", 8)


def _digits(text: bytes, base: int) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"expected a number, got {text[:20]!r}")
    return int(text, base)


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield (keyword, value) of each record "LENGTH KEYWORD=VALUE\\n" of a pax header."""
    position = 0
    while position < len(content) and content[position]:
        length = _digits(content[position : position + 21].partition(b" ")[0], 10)
        record = content[position : position + length]
        keyword, equals, value = record.partition(b" ")[2].partition(b"=")
        if len(record) < length or not equals or not value.endswith(b"\n"):
            raise ValueError("a pax header is broken")
        yield keyword, value[:-1]
        position += length


def _long(read: Callable[[int, int], bytes], start: int, length: int) -> bytes:
    if length > MAX_LONG_NAME_BYTES:
        raise ValueError(f"expected a header of at most {MAX_LONG_NAME_BYTES} bytes, got {length}")
    content = read(start, length)
    if len(content) < length:
        raise ValueError("the file ends within a header")
    return content


def _content_after_map(read: Callable[[int, int], bytes], start: int, block: bytes) -> int:
    """Return the start of the content of a sparse file in the old GNU format, after the blocks that list its holes."""
    more = block[482]
    while more:
        block = read(start, BLOCK)
        if len(block) < BLOCK:
            raise BrokenTail("ends within a header")
        more, start = block[504], start + BLOCK
    return start


def _padded(length: int) -> int:
    return (length + BLOCK - 1) // BLOCK * BLOCK


def _kind(kind: bytes, path: bytes, sparse: bool) -> str:
    if kind == b"5" or (kind in b"0\0" and path.endswith(b"/")):
        return "folder"
    if kind in _LINKS:
        return "link"
    return "file" if kind in _FILES and not sparse else "not a file"


def _describe(block: bytes) -> str:
    """Describe a file that is not a tar by its first block, for an error."""
    packed = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
    if packed:
        return f"a tar compressed with {packed}, which cannot be read at random; decompress it"
    return f"a file that begins with {block[:16]!r}"
