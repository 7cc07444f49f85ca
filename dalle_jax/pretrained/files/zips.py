"""Zip archives of weights. Members are found, checked and read in place, without unpacking to disk."""

import io
import itertools
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from dalle_jax.pretrained.files.tensors import MappedFile, check_name, file_error
from dalle_jax.untrusted import FREE_BYTES, MEMORY_RATIO, OverBudget

UTF8 = 1 << 11
"""Flag bit of a member whose name is in UTF-8."""
LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
MAX_MEMBERS = 200_000
ENTRY_BYTES = 16
"""Memory that zipfile takes for a byte of the central directory: 700 bytes for an entry of 47 or more."""


@dataclass(frozen=True)
class ZipMember:
    """Byte offsets of a zip member: ``header`` of its local header, ``start`` of its content.

    ``checksum`` is the CRC-32 in the central directory; 0 means that it was not computed.
    """

    header: int
    start: int
    stored_size: int
    size: int
    compressed: bool
    checksum: int


class _DirectoryFile(io.RawIOBase):
    """A mapped file for ``zipfile``. While ``in_directory``, reads are spent from the file's budget.

    ``zipfile`` reads the whole central directory at once and makes objects of it.
    """

    def __init__(self, file: MappedFile):
        self.file, self.at, self.in_directory = file, 0, True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.at

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: len(self.file)}[whence]
        if start + offset < 0:
            raise ValueError("a position before the file's beginning")
        self.at = start + offset
        return self.at

    def read(self, count: int = -1, /) -> bytes:
        end = len(self.file) if count < 0 else min(self.at + count, len(self.file))
        if self.in_directory:
            self.file.budget.spend(ENTRY_BYTES * max(0, end - self.at), 0)
        found = self.file.bytes[self.at : end]
        self.at += len(found)
        return found


class ZipArchive:
    """Members of a zip file by name.

    The constructor checks all of them before any is read. Members must lie inside the file and must not overlap. Their
    names must not be paths out of the archive.
    """

    def __init__(self, file: MappedFile):
        self.file = file
        try:
            stream = _DirectoryFile(file)
            self.zip = zipfile.ZipFile(stream)
            infos, stream.in_directory = self.zip.infolist(), False
        except OverBudget:
            raise
        except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, NotImplementedError, EOFError) as error:
            raise file_error(file.path, "a whole zip archive", f"one that is broken or cut off ({error})") from error
        if len(infos) > MAX_MEMBERS:
            raise file_error(file.path, f"at most {MAX_MEMBERS} members", str(len(infos)))
        self.members: dict[str, ZipMember] = {}
        self.checked: set[str] = set()
        for info in infos:
            name = check_name(file.path, info.filename)
            if name in self.members:
                raise file_error(file.path, "every member once", f"{name!r} twice")
            self.members[name] = self._member(info)
        self._check_overlaps()
        self._check_total_size()

    def names(self) -> list[str]:
        """List the members in the order of the central directory."""
        return list(self.members)

    def uncompressed_member(self, name: str) -> ZipMember:
        """Return a member that can be mapped; raise UserError if it is missing or compressed."""
        member = self.members.get(name)
        if member is None:
            raise file_error(self.path, f"a member {name!r}", "an archive without it")
        if member.compressed:
            got = "a compressed member; save the file again with torch"
            raise file_error(self.path, f"{name!r} uncompressed, as torch stores it", got)
        return member

    def check(self, name: str) -> None:
        """Compare the content of an uncompressed member with its CRC-32; raise UserError if they differ.

        Only the first call reads the content. A checksum of 0 is not compared, because torch writes 0 if it is told not
        to compute checksums.
        """
        member = self.members[name]
        if name in self.checked or not member.checksum:
            return
        with memoryview(self.file.bytes) as whole, whole[member.start : member.start + member.size] as part:
            found = zlib.crc32(part)
        if found != member.checksum:
            got = f"{found:08x}: the file is damaged; download it again"
            raise file_error(self.path, f"{name!r} with the checksum {member.checksum:08x}", got)
        self.checked.add(name)

    def content(self, name: str, count: int = -1) -> bytes:
        """Return the first ``count`` uncompressed bytes of a member, or all of them."""
        member = self.members[name]
        if not member.compressed:
            if count < 0:
                self.check(name)
            return self.file.bytes[
                member.start : member.start + (member.size if count < 0 else min(count, member.size))
            ]
        try:
            with self.zip.open(name) as stream:
                return stream.read(count)
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
            raise file_error(self.path, f"a readable member {name!r}", f"a broken one ({str(error)[:100]})") from error

    @property
    def path(self) -> Path:
        """Path of the archive."""
        return self.file.path

    def _member(self, info: zipfile.ZipInfo) -> ZipMember:
        """Check a member's local header against the central directory, and locate its content."""
        name, at = info.filename, info.header_offset
        head = self.file.bytes[at : at + LOCAL_HEADER.size] if at >= 0 else b""
        if len(head) < LOCAL_HEADER.size or head[:4] != b"PK\x03\x04":
            raise file_error(self.path, f"the local header of {name!r} at byte {at}", "other bytes")
        _, _, flags, compression, *_, name_length, extra_length = LOCAL_HEADER.unpack(head)
        start = at + LOCAL_HEADER.size + name_length + extra_length
        local_name = self.file.bytes[at + LOCAL_HEADER.size : start - extra_length]
        if (
            local_name != info.orig_filename.encode("utf-8" if flags & UTF8 else "cp437", "replace")
            or compression != info.compress_type
        ):
            raise file_error(self.path, f"{name!r} at byte {at}", f"another member {local_name[:80]!r}")
        if info.flag_bits & 1:
            raise file_error(self.path, "no encryption", f"{name!r} encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise file_error(self.path, f"{name!r} stored or deflated", f"compression method {info.compress_type}")
        compressed = info.compress_type == zipfile.ZIP_DEFLATED
        if not compressed and info.compress_size != info.file_size:
            raise file_error(self.path, f"{name!r} of one size", f"{info.compress_size} and {info.file_size} bytes")
        if start + info.compress_size > self.zip.start_dir:
            raise file_error(self.path, f"{name!r} inside the file", f"an end at byte {start + info.compress_size}")
        return ZipMember(at, start, info.compress_size, info.file_size, compressed, info.CRC)

    def _check_overlaps(self) -> None:
        placed = sorted((one.header, one.start + one.stored_size, name) for name, one in self.members.items())
        for (_, end, name), (start, _, other) in itertools.pairwise(placed):
            if start < end:
                raise file_error(self.path, "members that do not overlap", f"{name!r} and {other!r} overlapping")

    def _check_total_size(self) -> None:
        size = sum(one.size for one in self.members.values())
        if size > FREE_BYTES + MEMORY_RATIO * len(self.file):  # Deflate can reach 1,032; weights hardly reach 2
            raise file_error(self.path, "weights", f"{size} bytes compressed into {len(self.file)}: a zip bomb")
