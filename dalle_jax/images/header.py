"""What a file says before a pixel of it is decoded: format, size, orientation; and the parts that pixels need.

Pillow sees a file only after this: its size has been checked, and what pixels do not need (EXIF, colour profiles, text,
further pages and animation frames of some formats) has been left out, since that is where it warns, allocates and
unpacks. Layouts: JPEG ITU-T T.81 B.1, PNG (W3C) 5.3, GIF89a, TIFF 6.0 section 2 (EXIF is a TIFF of its own), BMP
(BITMAPINFOHEADER), WebP container specification.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass

ORIENTATION = 274
"""EXIF's tag of how the camera was held: 1 upright … 8."""
_JPEG_DROPPED = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # JFIF (E0) and Adobe's segment (EE) say what the colours are
_JPEG_SIZES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_SINGLE = (256, 257, 259, 262, 266, ORIENTATION, 277, 278, 282, 283, 284, 296, 317, 322, 323)


class BadPicture(Exception):
    """Bytes that are no picture that we decode. ``kind`` is a word or two, the same for all of one fault.

    "not a picture", "format" (one that we do not decode), "truncated", "broken", "too many bytes", "too many pixels",
    "too small".
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """What is refused before a picture is decoded; ``pixels`` is width times height, ``side`` the longer one.

    More than 89 million pixels would make Pillow warn of each picture.
    """

    bytes: int = 50_000_000
    pixels: int = 50_000_000
    side: int = 20_000
    least_side: int = 1

    def check(self, width: int, height: int) -> None:
        """Raises BadPicture for a size outside."""
        if width < 1 or height < 1:
            raise BadPicture("broken", f"{width}x{height} pixels")
        if width * height > self.pixels or max(width, height) > self.side:
            most = f"at most {self.pixels} and {self.side} a side are decoded"
            raise BadPicture("too many pixels", f"{width}x{height} pixels, {most}")
        if min(width, height) < self.least_side:
            raise BadPicture("too small", f"{width}x{height} pixels, expected at least {self.least_side} a side")


@dataclass(frozen=True)
class Header:
    """``format`` is Pillow's name, ``width`` and ``height`` are as stored, ``orientation`` is EXIF's, 1 to 8.

    ``content`` is the file without what its pixels do not need: always upright and of one page by its own account.
    """

    format: str
    width: int
    height: int
    orientation: int
    content: bytes

    @property
    def upright(self) -> tuple[int, int]:
        """Width and height as the picture is to be seen."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(content: bytes, limits: Limits) -> Header:
    """The header of a file of one of the six formats. Allocates no more than the file's own size.

    Raises BadPicture for other bytes, for a size outside the limits, and for a file that ends too early where its
    container says so.
    """
    if len(content) > limits.bytes:
        raise BadPicture("too many bytes", f"file of {len(content)} bytes, at most {limits.bytes} are read")
    name = next((name for name, (magics, _) in _READERS.items() if content.startswith(magics)), None)
    if name is None or (name == "WEBP" and content[8:12] != b"WEBP"):
        raise _no_picture(content)
    try:
        return _READERS[name][1](content, limits)
    except (struct.error, IndexError) as error:
        raise BadPicture("truncated", f"{name} file of {len(content)} bytes ends within its header") from error


def exif_orientation(exif: bytes) -> int:
    """The orientation in a block of EXIF data (with or without its "Exif" mark); 1 where it says none or is broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        entries = _directory(exif, order)[0]
    except struct.error:
        return 1
    return _orientation(_number(exif, order, entries.get(ORIENTATION)))


def _no_picture(content: bytes) -> BadPicture:
    if content[4:8] == b"ftyp":
        return BadPicture("format", f"a file of the kind {content[8:12]!r} (AVIF, HEIC, video); expected {_NAMES}")
    what = "no bytes" if not content else f"{len(content)} bytes that begin with {content[:12]!r}"
    text = " (text, such as a page of HTML)" if content[:64].lstrip()[:1] in (b"<", b"{") else ""
    return BadPicture("not a picture", f"expected {_NAMES}, got {what}{text}")


def _jpeg(content: bytes, limits: Limits) -> Header:
    kept, exif, size = [content[:2]], b"", (0, 0)
    position = 2
    while (position := content.find(b"\xff", position)) >= 0:  # bytes between segments are skipped, as libjpeg does
        code = content[position + 1]
        if code == 0xFF:
            position += 1
        elif code <= 0x01 or 0xD0 <= code <= 0xD8:
            position += 2
        elif code == 0xDA:
            return Header("JPEG", *size, exif_orientation(exif), b"".join([*kept, content[position:]]))
        else:
            end = position + 2 + max(2, struct.unpack_from(">H", content, position + 2)[0])
            segment = content[position:end]
            if code in _JPEG_SIZES:
                size = struct.unpack_from(">HH", segment, 5)[::-1]
                limits.check(*size)
            if code == 0xE1 and segment[4:10] == b"Exif\0\0":
                exif = exif or segment[4:]
            if code not in _JPEG_DROPPED:
                kept.append(segment)
            position = end
    raise BadPicture("truncated", f"JPEG file of {len(content)} bytes ends before its picture begins")


def _png(content: bytes, limits: Limits) -> Header:
    if not b"IHDR".startswith(content[12:16]):  # a beginning of it is left to be truncated
        raise BadPicture("broken", f"PNG file begins with {content[12:16]!r}, expected b'IHDR'")
    width, height = struct.unpack_from(">II", content, 16)
    limits.check(width, height)
    kept, exif, position, name = [content[:8]], b"", 8, b""
    view = memoryview(content)
    while name != b"IEND":
        length, name = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if name in _PNG_KEPT:
            if zlib.crc32(view[position + 4 : end - 4]) != checksum:
                raise BadPicture("broken", f"PNG file with a wrong checksum of its {name.decode()} at byte {position}")
            kept.append(content[position:end])
        elif name == b"eXIf":
            exif = content[position + 8 : end - 4]
        position = end
    return Header("PNG", width, height, exif_orientation(exif), b"".join(kept))


def _gif(content: bytes, limits: Limits) -> Header:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    limits.check(width, height)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while content[position] == 0x21:  # extensions before the first frame
        position += 2
        while content[position]:
            position += 1 + content[position]
        position += 1
    if content[position] == 0x2C:  # a frame may stand out over the screen, and Pillow makes room for it
        left, top, wide, high = struct.unpack_from("<4H", content, position + 1)
        width, height = max(width, left + wide), max(height, top + high)
    limits.check(width, height)
    return Header("GIF", width, height, 1, content)


def _bmp(content: bytes, limits: Limits) -> Header:
    (length,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", content, 18)
    limits.check(width, abs(height))  # a negative one says that rows go down
    return Header("BMP", width, abs(height), 1, content)


def _webp(content: bytes, limits: Limits) -> Header:
    kind = content[12:16]
    if kind == b"VP8X":
        low = struct.unpack_from("<HBHB", content, 24)
        width, height = 1 + low[0] + (low[1] << 16), 1 + low[2] + (low[3] << 16)
    elif kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", content, 21)
        width, height = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    elif kind == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", content, 26))
    else:
        raise BadPicture("broken", f"WebP file begins with {kind!r}, expected b'VP8X', b'VP8L' or b'VP8 '")
    limits.check(width, height)
    end, exif, position = 8 + struct.unpack_from("<I", content, 4)[0], b"", 12
    if end > len(content):
        raise BadPicture("truncated", f"WebP file of {len(content)} bytes, expected {end}")
    while position + 8 <= end:
        name, length = struct.unpack_from("<4sI", content, position)
        if name == b"EXIF":
            exif = content[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    return Header("WEBP", width, height, exif_orientation(exif), content)


def _tiff(content: bytes, limits: Limits) -> Header:
    """The first page of a TIFF, its orientation set to upright in the content."""
    order = "<" if content[:2] == b"II" else ">"
    entries, end = _directory(content, order)
    width, height = (_number(content, order, entries.get(tag)) or 0 for tag in (256, 257))
    limits.check(width, height)
    tile = [_number(content, order, entries.get(tag)) or 0 for tag in (322, 323)]
    if tile[0] * tile[1] > max(limits.pixels, 65_536):
        raise BadPicture("too many pixels", f"tiles of {tile[0]}x{tile[1]} pixels")
    room = len(content)
    for tag, (kind, count, position) in entries.items():
        size = _TIFF_BYTES.get(kind, 0) * count
        if size > 4:
            room -= size
            if room < 0 or struct.unpack_from(order + "I", content, position)[0] + size > len(content):
                raise BadPicture("truncated", f"TIFF file of {len(content)} bytes ends within its tag {tag}")
        if tag in _TIFF_SINGLE and count != 1:
            raise BadPicture("broken", f"TIFF file with {count} values of tag {tag}, expected one")
    first = bytearray(content)
    struct.pack_into(order + "I", first, end, 0)  # no further page
    if ORIENTATION in entries:
        struct.pack_into(order + "HIHH", first, entries[ORIENTATION][2] - 6, 3, 1, 1, 0)
    orientation = _orientation(_number(content, order, entries.get(ORIENTATION)))
    return Header("TIFF", width, height, orientation, bytes(first))


def _directory(content: bytes, order: str) -> tuple[dict[int, tuple[int, int, int]], int]:
    """The first directory of a TIFF: type, count and position of the value by tag; and where the next one is named.

    Raises ``struct.error`` where it does not lie within the content.
    """
    (start,) = struct.unpack_from(order + "I", content, 4)
    (count,) = struct.unpack_from(order + "H", content, start)
    end = start + 2 + 12 * count
    struct.unpack_from(order + "I", content, end)
    entries = {}
    for position in range(start + 2, end, 12):
        tag, kind, values = struct.unpack_from(order + "HHI", content, position)
        entries[tag] = (kind, values, position + 8)
    return entries, end


def _number(content: bytes, order: str, entry: tuple[int, int, int] | None) -> int | None:
    """A single value of one of the two integer types."""
    if entry is None or entry[0] not in (3, 4) or entry[1] != 1:
        return None
    return struct.unpack_from(order + ("H" if entry[0] == 3 else "I"), content, entry[2])[0]


def _orientation(value: int | None) -> int:
    return value if value is not None and 1 <= value <= 8 else 1


_READERS: dict[str, tuple[bytes | tuple[bytes, ...], Callable[[bytes, Limits], Header]]] = {
    "JPEG": (b"\xff\xd8", _jpeg),
    "PNG": (b"\x89PNG\r\n\x1a\n", _png),
    "WEBP": (b"RIFF", _webp),
    "GIF": ((b"GIF87a", b"GIF89a"), _gif),
    "BMP": (b"BM", _bmp),
    "TIFF": ((b"II*\0", b"MM\0*"), _tiff),
}
_NAMES = ", ".join(_READERS)
