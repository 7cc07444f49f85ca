"""Zip archives as weight files use them: members found and checked, to be read where they lie and never unpacked."""

import itertools
import struct
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

from dalle_jax.pretrained.files.tensors import MappedFile, check_name, refused

UTF8 = 1 << 11
"""The flag of a member whose name is in UTF-8."""
LOCAL_HEADER = struct.Struct("<4sHHHHHIIIHH")
MOST_MEMBERS = 200_000
LARGEST_RATIO = 200
"""How many times its packed size a member may have; deflate can reach 1,032, weights hardly 2."""
FREE_BYTES = 1 << 26
"""What an archive may unpack to whatever the ratio: fixtures of zeros are small."""


@dataclass(frozen=True)
class Member:
    """Where the bytes of a member lie in the file; ``packed`` where they are deflated, ``header`` where its own is.

    ``checksum`` is the CRC-32 of the archive's list, 0 where it was not computed.
    """

    header: int
    start: int
    stored_size: int
    size: int
    packed: bool
    checksum: int


class Archive:
    """The members of a zip file by name. All are checked before any is read: in the file, apart, named plainly."""

    def __init__(self, file: MappedFile):
        self.file = file
        try:
            self.zip = zipfile.ZipFile(file.path)
            infos = self.zip.infolist()
        except (zipfile.BadZipFile, ValueError, OverflowError, struct.error, NotImplementedError, EOFError) as error:
            raise refused(file.path, "a whole zip archive", f"one that is broken or cut off ({error})") from error
        if len(infos) > MOST_MEMBERS:
            raise refused(file.path, f"at most {MOST_MEMBERS} members", str(len(infos)))
        self.members: dict[str, Member] = {}
        self.checked: set[str] = set()
        for info in infos:
            name = check_name(file.path, info.filename)
            if name in self.members:
                raise refused(file.path, "every member once", f"{name!r} twice")
            self.members[name] = self._member(info)
        self._check_apart()
        self._check_sizes()

    def names(self) -> list[str]:
        """In the order of the archive's list."""
        return list(self.members)

    def in_place(self, name: str) -> Member:
        """A member whose bytes are in the file as they are; refused where it is missing or packed."""
        member = self.members.get(name)
        if member is None:
            raise refused(self.path, f"a member {name!r}", "an archive without it")
        if member.packed:
            raise refused(self.path, f"{name!r} stored as torch stores it", "a packed one; save it anew with torch")
        return member

    def check(self, name: str) -> None:
        """Raises UserError where the bytes of a member that is not packed are not those that were written.

        They are read once, at the first call. torch can be told to compute no checksums; it writes 0 then.
        """
        member = self.members[name]
        if name in self.checked or not member.checksum:
            return
        with memoryview(self.file.bytes) as whole, whole[member.start : member.start + member.size] as part:
            found = zlib.crc32(part)
        if found != member.checksum:
            got = f"{found:08x}: the file is damaged; get it anew"
            raise refused(self.path, f"{name!r} with the checksum {member.checksum:08x}", got)
        self.checked.add(name)

    def content(self, name: str, count: int = -1) -> bytes:
        """The first ``count`` bytes of a member, or all, unpacked if need be."""
        member = self.members[name]
        if not member.packed:
            if count < 0:
                self.check(name)
            return self.file.bytes[
                member.start : member.start + (member.size if count < 0 else min(count, member.size))
            ]
        try:
            with self.zip.open(name) as stream:
                return stream.read(count)
        except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError, RuntimeError) as error:
            raise refused(self.path, f"to read {name!r}", f"a broken member ({str(error)[:100]})") from error

    @property
    def path(self) -> Path:
        """The archive's file."""
        return self.file.path

    def _member(self, info: zipfile.ZipInfo) -> Member:
        name, at = info.filename, info.header_offset
        head = self.file.bytes[at : at + LOCAL_HEADER.size] if at >= 0 else b""
        if len(head) < LOCAL_HEADER.size or head[:4] != b"PK\x03\x04":
            raise refused(self.path, f"{name!r} where the archive's list says", f"something else at byte {at}")
        _, _, flags, kind, *_, name_length, extra_length = LOCAL_HEADER.unpack(head)
        start = at + LOCAL_HEADER.size + name_length + extra_length
        own = self.file.bytes[at + LOCAL_HEADER.size : start - extra_length]
        if (
            own != info.orig_filename.encode("utf-8" if flags & UTF8 else "cp437", "replace")
            or kind != info.compress_type
        ):
            raise refused(self.path, f"{name!r} at byte {at}", f"another member {own[:80]!r}")
        if info.flag_bits & 1:
            raise refused(self.path, "no passwords", f"{name!r} encrypted")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise refused(self.path, f"{name!r} stored or deflated", f"compression of kind {info.compress_type}")
        packed = info.compress_type == zipfile.ZIP_DEFLATED
        if not packed and info.compress_size != info.file_size:
            raise refused(self.path, f"{name!r} of one size", f"{info.compress_size} and {info.file_size} bytes")
        if start + info.compress_size > self.zip.start_dir:
            raise refused(self.path, f"{name!r} inside the file", f"an end at byte {start + info.compress_size}")
        return Member(at, start, info.compress_size, info.file_size, packed, info.CRC)

    def _check_apart(self) -> None:
        placed = sorted((one.header, one.start + one.stored_size, name) for name, one in self.members.items())
        for (_, end, name), (start, _, other) in itertools.pairwise(placed):
            if start < end:
                raise refused(self.path, "members apart from each other", f"{name!r} and {other!r} overlapping")

    def _check_sizes(self) -> None:
        size = sum(one.size for one in self.members.values())
        if size > max(FREE_BYTES, LARGEST_RATIO * len(self.file)):
            raise refused(self.path, "weights", f"{size} bytes packed into {len(self.file)}: a zip bomb")
