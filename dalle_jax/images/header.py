"""Headers of untrusted image files: format, size and orientation, read before Pillow sees the file.

The size is checked against limits here. Parts that the pixels do not need are removed from JPEG, PNG and TIFF files:
EXIF, colour profiles, text and further pages. Otherwise Pillow would decompress these parts, allocate memory for them
and print warnings. Comments are removed from GIF files, since Pillow takes quadratic time for them. BMP, WebP and AVIF
files are kept as they are.

The work of a decoder is bounded here too, since a decoder cannot be interrupted: the scans of a JPEG, each of which
passes over all pixels, and the parts of every format are counted.

Layouts: JPEG ITU-T T.81 B.1, PNG (W3C) 5.3, GIF89a, TIFF 6.0 section 2 (EXIF data are a TIFF too), BMP
(BITMAPINFOHEADER), WebP container specification, AVIF ISO/IEC 23008-12 section 6.5 (ispe, irot, imir).
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from PIL import features

FREE_PIXELS, PIXELS_PER_BYTE = 16_000_000, 256
"""Largest image of a data set in any number of bytes, and the pixels for a byte of a larger one.

A photo has up to about 100 pixels a byte.
"""
MAX_SCANS = 100
"""Largest number of scans of a JPEG. Progressive files have about 10, and the most thorough optimisers make 60."""
MAX_PARTS = 100_000
"""Largest number of segments, chunks or blocks before the pixels, and of values in a tag of a TIFF but for offsets."""
MAX_OFFSETS = 200_000
"""Largest number of strips or tiles of a TIFF; tiles have at least 16 x 16 pixels."""
MAX_RUN_LENGTH_BYTES = 8_000_000
"""Largest BMP with run lengths, which Pillow decodes in Python."""
ORIENTATION = 274
"""EXIF tag of the camera's orientation, 1 (upright) to 8."""
_JPEG_DROPPED = {*range(0xE1, 0xEE), 0xEF, 0xFE}  # JFIF (E0) and Adobe (EE) define the colours
_JPEG_PROGRESSIVE = (0xC2, 0xC6, 0xCA, 0xCE)
_JPEG_SIZES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_PNG_KEPT = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_TIFF_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4}
_TIFF_SINGLE = (256, 257, 259, 262, 266, ORIENTATION, 277, 278, 282, 283, 284, 296, 317, 322, 323)
_TIFF_OFFSETS = (273, 279, 324, 325)
_AVIF_BRANDS = (b"avif", b"avis")
_AVIF_CONTAINERS = {b"meta": 4, b"iprp": 0, b"ipco": 0}
"""Boxes that hold the boxes of properties, and the bytes before these."""
_AVIF_TURNED, _AVIF_MIRRORED = (1, 8, 3, 6), (4, 5, 2, 7)
"""EXIF's orientation by quarter turns to the left, alone and with top and bottom exchanged after them."""


class BadImage(Exception):
    """A file that cannot be decoded.

    ``kind`` is the class of the fault, by which reports count; ``reason`` describes the fault of this file.

    Kinds: "not an image", "format" (a format that is not supported), "truncated", "broken", "too many bytes",
    "too many pixels", "too many parts", "too small".
    """

    def __init__(self, kind: str, reason: str):
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


@dataclass(frozen=True)
class Limits:
    """Size limits, checked before an image is decoded.

    ``bytes`` limits the file, ``pixels`` width times height, ``side`` the longer side, ``min_side`` the shorter one.
    Pillow warns about each image of more than 89 million pixels.
    """

    bytes: int = 50_000_000
    pixels: int = 50_000_000
    side: int = 20_000
    min_side: int = 1

    def check(self, width: int, height: int) -> None:
        """Raise ``BadImage`` if a size is outside the limits."""
        if width < 1 or height < 1:
            raise BadImage("broken", f"{width}x{height} pixels, expected at least 1x1")
        if width * height > self.pixels or max(width, height) > self.side:
            allowed = f"expected at most {self.pixels} pixels and at most {self.side} a side"
            raise BadImage("too many pixels", f"{width}x{height} pixels, {allowed}")
        if min(width, height) < self.min_side:
            raise BadImage("too small", f"{width}x{height} pixels, expected at least {self.min_side} a side")


@dataclass(frozen=True)
class Header:
    """Properties of an image file, and the part of it that Pillow decodes.

    ``format`` is Pillow's name, ``width`` and ``height`` are as stored, ``orientation`` is EXIF's, 1 to 8. ``content``
    is the file to decode, from which metadata and further pages were removed where Pillow would read them.
    """

    format: str
    width: int
    height: int
    orientation: int
    content: bytes

    @property
    def upright(self) -> tuple[int, int]:
        """Return width and height after the orientation is applied."""
        return (self.height, self.width) if self.orientation >= 5 else (self.width, self.height)


def read_header(content: bytes, limits: Limits) -> Header:
    """Read the header of a JPEG, PNG, WebP, GIF, BMP or TIFF file, and of AVIF if Pillow was built with it.

    Allocates no more memory than the file's size.

    Raises ``BadImage`` for other formats, for a size outside the limits, and for a file that is shorter than its header
    says.
    """
    if len(content) > limits.bytes:
        raise BadImage("too many bytes", f"file of {len(content)} bytes, expected at most {limits.bytes}")
    name = next((name for name, (magics, _) in _READERS.items() if content.startswith(magics)), None)
    if name is None and _is_avif(content) and features.check("avif"):
        name = "AVIF"
    if name is None or (name == "WEBP" and content[8:12] != b"WEBP"):
        raise _unknown_format(content)
    try:
        return _READERS[name][1](content, limits)
    except (struct.error, IndexError) as error:
        raise BadImage("truncated", f"{name} file of {len(content)} bytes ends within its header") from error


def refuse_sparse(header: Header, size: int) -> None:
    """Raise ``BadImage`` for a large image in a file of so few bytes that it can only be blank, or a bomb."""
    if header.width * header.height > max(FREE_PIXELS, PIXELS_PER_BYTE * size):
        got = f"{header.width}x{header.height} pixels in a file of {size} bytes"
        raise BadImage("too many pixels", f"{got}, expected at most {PIXELS_PER_BYTE} per byte beyond {FREE_PIXELS}")


def exif_orientation(exif: bytes) -> int:
    """Return the orientation in EXIF data, with or without the "Exif" prefix; 1 if absent or broken."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        entries = _directory(exif, order)[0]
    except struct.error:
        return 1
    return _orientation(_number(exif, order, entries.get(ORIENTATION)))


def _unknown_format(content: bytes) -> BadImage:
    if _is_avif(content):
        return BadImage("format", "AVIF file, which this build of Pillow cannot decode")
    if content[4:8] == b"ftyp":
        return BadImage("format", f"expected {_FORMATS}, got a file of type {content[8:12]!r} (such as HEIC or video)")
    got = "no bytes" if not content else f"{len(content)} bytes that begin with {content[:12]!r}"
    text = " (text, such as an HTML page)" if content[:64].lstrip()[:1] in (b"<", b"{") else ""
    return BadImage("not an image", f"expected {_FORMATS}, got {got}{text}")


def _too_many_parts(name: str) -> BadImage:
    return BadImage("too many parts", f"{name} file of more than {MAX_PARTS} parts")


def _jpeg(content: bytes, limits: Limits) -> Header:
    kept, exif, size, frame, components = [content[:2]], b"", (0, 0), 0xC0, 0
    position = 2
    for _ in range(MAX_PARTS):
        position = content.find(b"\xff", position)  # like libjpeg, skip bytes between segments
        if position < 0:
            raise BadImage("truncated", f"JPEG file of {len(content)} bytes ends before its pixels begin")
        code = content[position + 1]
        if code == 0xFF:
            position += 1
        elif code <= 0x01 or 0xD0 <= code <= 0xD8:
            position += 2
        elif code == 0xDA:
            several = frame in _JPEG_PROGRESSIVE or content[position + 4] < components
            scans = content.count(b"\xff\xda", position) if several else 1  # libjpeg reads no further ones then
            if scans > MAX_SCANS:
                raise BadImage("too many parts", f"JPEG file of {scans} scans, expected at most {MAX_SCANS}")
            return Header("JPEG", *size, exif_orientation(exif), b"".join([*kept, content[position:]]))
        else:
            end = position + 2 + max(2, struct.unpack_from(">H", content, position + 2)[0])
            segment = content[position:end]
            if code in _JPEG_SIZES:
                height, width, components = struct.unpack_from(">HHB", segment, 5)
                size, frame = (width, height), code
                limits.check(*size)
            if code == 0xE1 and segment[4:10] == b"Exif\0\0":
                exif = exif or segment[4:]
            if code not in _JPEG_DROPPED:
                kept.append(segment)
            position = end
    raise _too_many_parts("JPEG")


def _png(content: bytes, limits: Limits) -> Header:
    if not b"IHDR".startswith(content[12:16]):  # a shorter file is reported as truncated below
        raise BadImage("broken", f"PNG file begins with {content[12:16]!r}, expected b'IHDR'")
    width, height = struct.unpack_from(">II", content, 16)
    limits.check(width, height)
    kept, exif, position, name = [content[:8]], b"", 8, b""
    view = memoryview(content)
    for _ in range(MAX_PARTS):
        if name == b"IEND":
            return Header("PNG", width, height, exif_orientation(exif), b"".join(kept))
        length, name = struct.unpack_from(">I4s", content, position)
        end = position + 12 + length
        (checksum,) = struct.unpack_from(">I", content, end - 4)
        if name in _PNG_KEPT:
            if zlib.crc32(view[position + 4 : end - 4]) != checksum:
                raise BadImage("broken", f"PNG file: wrong checksum of {name.decode()} at byte {position}")
            kept.append(content[position:end])
        elif name == b"eXIf":
            exif = content[position + 8 : end - 4]
        position = end
    raise _too_many_parts("PNG")


def _gif(content: bytes, limits: Limits) -> Header:
    width, height, flags = struct.unpack_from("<HHB", content, 6)
    limits.check(width, height)
    position = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    kept, parts = [content[:position]], 0
    while content[position] == 0x21:  # extensions before the first frame
        start, graphic_control = position, content[position + 1] == 0xF9
        position += 2
        while content[position]:
            position += 1 + content[position]
            parts += 1
            if parts > MAX_PARTS:
                raise _too_many_parts("GIF")
        position += 1
        if graphic_control:
            kept.append(content[start:position])
    if content[position] == 0x2C:  # a frame may exceed the screen, and Pillow allocates for both
        left, top, wide, high = struct.unpack_from("<4H", content, position + 1)
        width, height = max(width, left + wide), max(height, top + high)
    limits.check(width, height)
    return Header("GIF", width, height, 1, b"".join([*kept, content[position:]]))


def _bmp(content: bytes, limits: Limits) -> Header:
    (length,) = struct.unpack_from("<I", content, 14)
    width, height = struct.unpack_from("<HH" if length == 12 else "<ii", content, 18)
    limits.check(width, abs(height))  # a negative height means top-down rows
    packed = length >= 40 and struct.unpack_from("<I", content, 30)[0] in (1, 2)
    if packed and len(content) > MAX_RUN_LENGTH_BYTES:
        expected = f"expected at most {MAX_RUN_LENGTH_BYTES}"
        raise BadImage("too many bytes", f"BMP file of {len(content)} bytes with run lengths, {expected}")
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
        raise BadImage("broken", f"WebP file begins with {kind!r}, expected b'VP8X', b'VP8L' or b'VP8 '")
    limits.check(width, height)
    end, exif, position = 8 + struct.unpack_from("<I", content, 4)[0], b"", 12
    if end > len(content):
        raise BadImage("truncated", f"WebP file of {len(content)} bytes, expected {end}")
    for _ in range(MAX_PARTS):
        if position + 8 > end:
            return Header("WEBP", width, height, exif_orientation(exif), content)
        name, length = struct.unpack_from("<4sI", content, position)
        if name == b"EXIF":
            exif = content[position + 8 : position + 8 + length]
        position += 8 + length + length % 2
    raise _too_many_parts("WebP")


def _is_avif(content: bytes) -> bool:
    """Return True if the brands of an ISO base media file name AVIF."""
    if content[4:8] != b"ftyp":
        return False
    compatible = content[16 : min(int.from_bytes(content[:4], "big"), 256)]
    return content[8:12] in _AVIF_BRANDS or (content[8:12] in (b"mif1", b"msf1") and b"avif" in compatible)


def _avif(content: bytes, limits: Limits) -> Header:
    """Return the header of an AVIF file: the size of its largest item, and its turn and mirror."""
    width, height, turns, mirror = 0, 0, 0, None
    for name, start, _ in _boxes(content, 0, len(content)):
        if name == b"ispe":
            size = struct.unpack_from(">II", content, start + 4)
            width, height = max((width, height), size, key=lambda one: one[0] * one[1])
        elif name in (b"irot", b"imir"):
            (value,) = struct.unpack_from(">B", content, start)
            turns, mirror = (value & 3, mirror) if name == b"irot" else (turns, value & 1)
    limits.check(width, height)
    if mirror is None:
        return Header("AVIF", width, height, _AVIF_TURNED[turns], content)
    # An exchange of left and right is one of top and bottom after a half turn.
    return Header("AVIF", width, height, _AVIF_MIRRORED[(turns + 2 * mirror) % 4], content)


def _boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield type, start and end of the boxes of an ISO base media file, and of those in ``_AVIF_CONTAINERS``."""
    inside = [(start, end)]
    for _ in range(MAX_PARTS):
        while inside and inside[-1][0] + 8 > inside[-1][1]:
            inside.pop()
        if not inside:
            return
        start, end = inside.pop()
        size, name = struct.unpack_from(">I4s", content, start)
        body = start + 8
        if size == 1:
            (size,) = struct.unpack_from(">Q", content, body)
            body += 8
        stop = end if size == 0 else start + size
        if stop < body or stop > end:
            got = f"box {name!r} of {size} bytes at byte {start}"
            raise BadImage("truncated", f"AVIF file with a {got}, expected it to end by byte {end}")
        inside.append((stop, end))
        yield name, body, stop
        if name in _AVIF_CONTAINERS:
            inside.append((body + _AVIF_CONTAINERS[name], stop))
    raise _too_many_parts("AVIF")


def _tiff(content: bytes, limits: Limits) -> Header:
    """Return the header of a TIFF file. Its ``content`` has only the first page, stored as upright."""
    order = "<" if content[:2] == b"II" else ">"
    entries, end = _directory(content, order)
    width, height = (_number(content, order, entries.get(tag)) or 0 for tag in (256, 257))
    limits.check(width, height)
    tile = [_number(content, order, entries.get(tag)) or 0 for tag in (322, 323)]
    if tile[0] * tile[1] > max(limits.pixels, 65_536):
        raise BadImage("too many pixels", f"tiles of {tile[0]}x{tile[1]} pixels")
    room = len(content)
    for tag, (kind, count, position) in entries.items():
        size = _TIFF_BYTES.get(kind, 0) * count
        if size > 4:
            room -= size
            if room < 0 or struct.unpack_from(order + "I", content, position)[0] + size > len(content):
                raise BadImage("truncated", f"TIFF file of {len(content)} bytes ends within its tag {tag}")
        if kind not in (1, 2, 6, 7) and count > (MAX_OFFSETS if tag in _TIFF_OFFSETS else MAX_PARTS):
            raise _too_many_parts("TIFF")
        if tag in _TIFF_SINGLE and count != 1:
            raise BadImage("broken", f"TIFF file with {count} values of tag {tag}, expected 1")
    first = bytearray(content)
    struct.pack_into(order + "I", first, end, 0)  # no further page
    if ORIENTATION in entries:
        struct.pack_into(order + "HIHH", first, entries[ORIENTATION][2] - 6, 3, 1, 1, 0)
    orientation = _orientation(_number(content, order, entries.get(ORIENTATION)))
    return Header("TIFF", width, height, orientation, bytes(first))


def _directory(content: bytes, order: str) -> tuple[dict[int, tuple[int, int, int]], int]:
    """Read the first directory of a TIFF.

    Returns the entries by tag, each as (type, count, position of the value). The second result is the position of the
    link to the next directory. Raises ``struct.error`` if the directory exceeds the content.
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
    """Return an entry's value if it is a single 16-bit or 32-bit integer, else None."""
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
    "AVIF": ((), _avif),  # _is_avif
}
_FORMATS = ", ".join(_READERS)
