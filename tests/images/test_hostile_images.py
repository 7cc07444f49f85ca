"""Image files that would cost a decoder much time or memory are refused by their headers."""

import struct

import numpy as np
import pytest

from dalle_jax.images.decode import decode
from dalle_jax.images.header import (
    MAX_OFFSETS,
    MAX_PARTS,
    MAX_RUN_LENGTH_BYTES,
    MAX_SCANS,
    BadImage,
    Header,
    Limits,
    read_header,
    refuse_sparse,
)
from tests.images.test_decode import as_file, chunk, kind_of


def progressive_jpeg(side: int, scans: int) -> bytes:
    """Return a grey progressive JPEG whose scans all say in few bytes that nothing changes."""
    out = b"\xff\xd8\xff\xdb\0\x43\0" + b"\1" * 64 + b"\xff\xc2" + struct.pack(">HBHHB", 11, 8, side, side, 1)
    out += b"\1\x11\0"
    for kind, symbol in ((0, 0), (1, 0xE0)):
        out += b"\xff\xc4" + struct.pack(">HB", 20, kind << 4) + bytes([1] + [0] * 15) + bytes([symbol])
    blocks = (-(-side // 8)) ** 2
    out += b"\xff\xda" + struct.pack(">HBBBBBB", 8, 1, 1, 0, 0, 0, 0) + bytes(-(-blocks // 8))
    scan = struct.pack(">HBBBBBB", 8, 1, 1, 0, 1, 63, 0x0D) + b"\x7f\xff\0" * -(-blocks // 32767)
    return out + (b"\xff\xda" + scan) * (scans - 1) + b"\xff\xd9"


def test_a_jpeg_of_more_scans_than_any_encoder_makes_is_refused_before_decoding():
    assert decode(progressive_jpeg(64, MAX_SCANS)).shape == (64, 64, 3)
    assert kind_of(progressive_jpeg(64, MAX_SCANS + 1)) == "too many parts"


def test_a_sequential_jpeg_of_very_many_scans_is_refused_too():
    content = progressive_jpeg(64, MAX_SCANS + 1).replace(b"\xff\xc2", b"\xff\xc0")
    two = content.replace(b"\x40\1\1\x11\0", b"\x40\2\1\x11\0\2\x11\0").replace(b"\xff\xc0\0\x0b", b"\xff\xc0\0\x0e")
    assert len(two) == len(content) + 3 and kind_of(two) == "too many parts"


@pytest.mark.parametrize("quality", [30, 95])
def test_progressive_photos_have_few_scans(quality):
    noise = np.random.default_rng(0).integers(0, 255, (90, 80, 3), np.uint8)
    content = as_file(noise, "JPEG", progressive=True, quality=quality)
    assert content.count(b"\xff\xda") < MAX_SCANS // 5
    assert decode(content).shape == (90, 80, 3)


def files_of_many_parts(count: int):
    whole = {kind: as_file(np.zeros((4, 4, 3), np.uint8), kind) for kind in ("PNG", "GIF", "WEBP", "JPEG")}
    yield whole["JPEG"][:2] + b"\xff\x01" * count + whole["JPEG"][2:]
    yield whole["PNG"][:33] + chunk(b"IDAT", b"") * count + whole["PNG"][33:]
    screen = 13 + (3 << (whole["GIF"][10] & 7) + 1)
    yield whole["GIF"][:screen] + b"!\xfe" + b"\1x" * count + b"\0" + whole["GIF"][screen:]
    longer = whole["WEBP"] + b"abcd\0\0\0\0" * count
    yield longer[:4] + struct.pack("<I", len(longer) - 8) + longer[8:]


def test_files_of_very_many_parts_are_refused():
    for content in files_of_many_parts(5):
        assert decode(content).shape == (4, 4, 3)
    for content in files_of_many_parts(MAX_PARTS + 1):
        assert kind_of(content) == "too many parts"


def test_comments_before_the_first_frame_of_a_gif_are_removed():
    content = list(files_of_many_parts(1000))[2]
    assert len(read_header(content, Limits()).content) == len(content) - 2003


def test_a_large_bmp_with_run_lengths_is_refused():
    body = b"\1\5" * (MAX_RUN_LENGTH_BYTES // 2)
    head = struct.pack("<IiiHHIIiiII", 40, 2000, 2000, 1, 8, 1, len(body), 0, 0, 256, 0) + bytes(1024)
    content = b"BM" + struct.pack("<IHHI", 14 + len(head) + len(body), 0, 0, 14 + len(head)) + head + body
    assert kind_of(content) == "too many bytes"


def test_a_tiff_with_more_offsets_than_it_can_have_strips_is_refused():
    values = 12 * (MAX_OFFSETS + 1)
    entries = ((256, 4, 1, 8), (257, 4, 1, 8), (273, 4, MAX_OFFSETS + 1, 8), (279, 4, MAX_OFFSETS + 1, 8))
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *one) for one in entries) + bytes(4)
    content = b"II*\0" + struct.pack("<I", 8 + values) + bytes(values) + directory
    assert kind_of(content) == "too many parts"


def test_large_images_of_hardly_any_bytes_are_refused_in_data_sets():
    header = Header("PNG", 5000, 4000, 1, b"")
    with pytest.raises(BadImage, match="5000x4000 pixels in a file of 50000 bytes"):
        refuse_sparse(header, 50_000)
    refuse_sparse(header, 100_000)
    refuse_sparse(Header("PNG", 4000, 4000, 1, b""), 50)
