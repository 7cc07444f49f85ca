"""The headers of a tar, one after the other, without the contents of its members: POSIX ustar and pax, GNU, v7.

POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; GNU tar's manual, "Basic Tar Format".
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from dalle_jax.config.errors import UserError

BLOCK = 512
MOST_OF_A_LONG_NAME = 2**20
"""Bytes of a GNU long name or of a pax header; more than that is no name."""

_ZEROS = bytes(BLOCK)
_FILES = b"0\x007"
_LINKS = b"12"
_WITHOUT_CONTENT = b"123456"
_COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}


class Member(NamedTuple):
    """What one header says. ``what`` is "file", "folder", "link" or, for all else, "not a file"."""

    what: str
    name: bytes
    start: int
    size: int


class BrokenTail(Exception):
    """From here on the tar cannot be read; what came before is whole."""


def members(read: Callable[[int, int], bytes], size: int, name: str, digest: Any) -> Iterator[Member]:
    """The members of a tar of ``size`` bytes; ``read(start, length)`` gives its bytes, fewer at its end.

    ``digest`` (of hashlib) is fed with every header. Raises BrokenTail where the rest is cut off or no tar, UserError
    with the tar's ``name`` if not even its beginning is one.
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
                raise UserError(f"{name}: expected a tar, got {_seen(block)}") from error
            raise BrokenTail(f"cannot be read from byte {position} on: {error}") from error
        if kind == b"S":
            start = _behind_map(read, start, block)
        if extended.size is not None:
            length = extended.size
        if kind in _WITHOUT_CONTENT:
            length = 0
        path = extended.path if extended.path is not None else path
        if start + length > size:
            raise BrokenTail(f"ends at byte {size} within the member {path.decode(errors='backslashreplace')}")
        yield Member(_what(kind, path, extended.sparse), path, start, length)
        position, extended = start + _padded(length), _Extended()


class _Extended:
    """What headers ahead of a member's own say of it: GNU's long name, pax's path and size."""

    def __init__(self) -> None:
        self.path: bytes | None = None
        self.size: int | None = None
        self.sparse = False

    def add(self, kind: bytes, content: bytes) -> None:
        """Takes in one such header. A global one ("g") describes no member by name or size; a long link ("K") none."""
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
    """(type, name, size) of a header. Raises ValueError for a block that is none."""
    said = _number(block[148:156])
    if said != 256 + sum(block[:148]) + sum(block[156:]):
        signed = sum(byte - 256 * (byte > 127) for byte in block[:148] + block[156:])  # as some old tars counted
        if said != 256 + signed:
            raise ValueError("the header's checksum is wrong")
    name = block[:100].partition(b"\0")[0]
    if block[257:263] == b"ustar\0" and block[345]:
        name = block[345:500].partition(b"\0")[0] + b"/" + name
    return block[156:157], name, _number(block[124:136])


def _number(field: bytes) -> int:
    """A number of a header: octal digits, or GNU's big-endian bytes behind 0x80."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    return _digits(field.partition(b"\0")[0].strip() or b"0", 8)


def _digits(text: bytes, base: int) -> int:
    if not text.isdigit() or len(text) > 20:
        raise ValueError(f"expected a number, got {text[:20]!r}")
    return int(text, base)


def _pax_records(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """(keyword, value) of each record "LENGTH KEYWORD=VALUE\\n" of a pax header."""
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
    if length > MOST_OF_A_LONG_NAME:
        raise ValueError(f"a header of {length} bytes, expected at most {MOST_OF_A_LONG_NAME}")
    content = read(start, length)
    if len(content) < length:
        raise ValueError("it ends within a header")
    return content


def _behind_map(read: Callable[[int, int], bytes], start: int, block: bytes) -> int:
    """Where the content of GNU's old sparse files begins: behind blocks that go on with the map of their holes."""
    more = block[482]
    while more:
        block = read(start, BLOCK)
        if len(block) < BLOCK:
            raise BrokenTail("ends within a header")
        more, start = block[504], start + BLOCK
    return start


def _padded(length: int) -> int:
    return (length + BLOCK - 1) // BLOCK * BLOCK


def _what(kind: bytes, path: bytes, sparse: bool) -> str:
    if kind == b"5" or (kind in b"0\0" and path.endswith(b"/")):
        return "folder"
    if kind in _LINKS:
        return "link"
    return "file" if kind in _FILES and not sparse else "not a file"


def _seen(block: bytes) -> str:
    packed = next((name for magic, name in _COMPRESSED.items() if block.startswith(magic)), None)
    if packed:
        return f"a file packed with {packed}, in which nothing can be found at random; unpack it"
    return f"a file that begins with {block[:16]!r}"
