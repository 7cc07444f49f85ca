import io
import struct
import tracemalloc
import warnings
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from dalle_jax.images.decode import decode
from dalle_jax.images.header import ORIENTATION, BadImage, Limits, exif_orientation, read_header

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def noise(height=8, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth(height=48, width=64):
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 3, y * 4, 255 - x * 2], axis=2).astype(np.uint8)


def as_file(image, kind="PNG", **options):
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    out = io.BytesIO()
    image.save(out, format=kind, **options)
    return out.getvalue()


def chunk(name, data):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(width, height, depth, colour, rows, *between):
    """Build a PNG file: ``rows`` are the bytes of each row, ``between`` are chunks before the pixels."""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(between) + body + chunk(b"IEND", b"")


def kind_of(content, *arguments, **options):
    with pytest.raises(BadImage) as caught:
        decode(content, *arguments, **options)
    return caught.value.kind


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_lossless_formats_give_back_their_pixels(kind):
    np.testing.assert_array_equal(decode(as_file(noise(), kind)), noise())


def test_other_formats_return_the_encoded_pixels_or_close_to_them():
    np.testing.assert_array_equal(decode(as_file(noise(), "WEBP", lossless=True)), noise())
    np.testing.assert_array_equal(decode(as_file(noise(), "TIFF", compression="tiff_lzw")), noise())
    assert np.abs(decode(as_file(smooth(), "JPEG", quality=95)).astype(int) - smooth()).max() < 25
    assert np.abs(decode(as_file(smooth(), "WEBP", quality=95)).astype(int) - smooth()).max() < 40
    few = Image.fromarray(smooth()).quantize(16)
    np.testing.assert_array_equal(decode(as_file(few, "GIF")), np.asarray(few.convert("RGB")))
    np.testing.assert_array_equal(decode(as_file(few)), np.asarray(few.convert("RGB")))


def test_grey_and_one_bit_become_three_equal_channels():
    grey = np.arange(48, dtype=np.uint8).reshape(8, 6)
    for kind in ("PNG", "BMP", "TIFF", "GIF"):
        np.testing.assert_array_equal(decode(as_file(grey, kind)), np.repeat(grey[:, :, None], 3, axis=2))
    for kind in ("PNG", "BMP", "TIFF"):
        bits = decode(as_file(Image.fromarray(grey % 2 == 1), kind))
        np.testing.assert_array_equal(bits[:, :, 1], grey % 2 * 255)


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_16_bit_grey_is_scaled_and_rounded(kind):
    deep = np.array([[0, 255, 256, 32_768], [65_535, 257, 128, 129]], np.uint16)
    found = decode(as_file(deep, kind))
    np.testing.assert_array_equal(found[:, :, 0], [[0, 1, 1, 128], [255, 1, 0, 1]])
    np.testing.assert_array_equal(found[:, :, 0], found[:, :, 2])


def test_16_bit_tiff_with_white_as_zero_is_inverted():
    content = bytearray(as_file(np.array([[0, 65_535]], np.uint16), "TIFF"))
    entry = struct.pack("<HHIHH", 262, 3, 1, 1, 0)
    place = bytes(content).index(entry)
    content[place : place + 12] = struct.pack("<HHIHH", 262, 3, 1, 0, 0)
    np.testing.assert_array_equal(decode(bytes(content))[:, :, 0], [[255, 0]])


def test_16_bit_colours_are_scaled():
    row = struct.pack(">6H", 0, 32_768, 65_535, 0x1234, 0xFF00, 0x00FF)
    np.testing.assert_array_equal(decode(png(2, 1, 16, 2, [row])), [[[0, 128, 255], [0x12, 0xFF, 0]]])
    row = struct.pack(">8H", 65_535, 0, 0, 65_535, 65_535, 0, 0, 0)
    np.testing.assert_array_equal(decode(png(2, 1, 16, 6, [row]), background=(1, 2, 3)), [[[255, 0, 0], [1, 2, 3]]])


def test_pixels_without_a_known_white_level_are_refused():
    for image in (np.array([[1, 70_000]], np.int32), np.array([[0.5, 3.0]], np.float32)):
        assert kind_of(as_file(image, "TIFF")) == "format"


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_alpha_is_blended_over_the_background(kind):
    layer = np.zeros((4, 8, 4), np.uint8)
    layer[..., :3] = (200, 100, 0)
    layer[..., 3] = np.repeat([0, 64, 128, 255], 8).reshape(4, 8)
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = decode(as_file(layer, kind, **options), background=(0, 100, 255))
    share = layer[..., 3:] / 255
    right = layer[..., :3] * share + np.array([0, 100, 255]) * (1 - share)
    assert np.abs(found - right).max() <= 0.5
    np.testing.assert_array_equal(found[3, 0], (200, 100, 0))
    np.testing.assert_array_equal(found[0, 0], (0, 100, 255))


def test_grey_with_alpha_and_transparent_palettes_are_blended_over_the_background():
    layer = Image.merge("LA", [Image.new("L", (1, 1), 200), Image.new("L", (1, 1), 51)])
    np.testing.assert_array_equal(decode(as_file(layer), background=(100, 0, 255)), [[[120, 40, 244]]])
    palette = Image.new("P", (3, 1))
    palette.putpalette([255, 0, 0, 0, 255, 0, 0, 0, 255])
    palette.putdata([0, 1, 2])
    one = decode(as_file(palette, "GIF", transparency=1), background=(9, 8, 7))
    np.testing.assert_array_equal(one, [[[255, 0, 0], [9, 8, 7], [0, 0, 255]]])
    each = decode(as_file(palette, transparency=bytes([255, 0, 51])), background=(100, 100, 100))
    np.testing.assert_array_equal(each, [[[255, 0, 0], [100, 100, 100], [80, 80, 131]]])


@pytest.mark.parametrize(
    ("depth", "row", "mark", "seen"),
    [(1, b"\x40", 1, [0, 9]), (2, b"\xb0", 2, [9, 255]), (4, b"\x3a", 3, [9, 170]), (8, b"\x07\x06", 7, [9, 6])],
)
def test_a_transparent_grey_level_is_read_in_the_bit_depth_of_the_file(depth, row, mark, seen):
    content = png(2, 1, depth, 0, [row], chunk(b"tRNS", struct.pack(">H", mark)))
    np.testing.assert_array_equal(decode(content, background=(9, 9, 9))[0, :, 0], seen)


def test_a_transparent_16_bit_colour_is_read_in_16_bits():
    grey = png(2, 1, 16, 0, [struct.pack(">2H", 0x1234, 0x1235)], chunk(b"tRNS", struct.pack(">H", 0x1234)))
    np.testing.assert_array_equal(decode(grey, background=(9, 9, 9))[0, :, 0], [9, 0x12])
    rows, mark = struct.pack(">6H", 0x1234, 0, 0xFFFF, 0xFF00, 0, 0), struct.pack(">3H", 0x1234, 0, 0xFFFF)
    colour = decode(png(2, 1, 16, 2, [rows], chunk(b"tRNS", mark)), background=(9, 9, 9))
    np.testing.assert_array_equal(colour, [[[9, 9, 9], [255, 0, 0]]])


def test_premultiplied_alpha_is_undone_before_blending():
    content = bytearray(as_file(np.full((1, 1, 4), (50, 25, 0, 128), np.uint8), "TIFF"))
    place = bytes(content).index(struct.pack("<HHI", 338, 3, 1))  # extra samples: 2, unassociated alpha
    content[place + 8 : place + 10] = struct.pack("<H", 1)  # 1: premultiplied alpha
    found = decode(bytes(content), background=(255, 255, 255)).astype(int)
    np.testing.assert_allclose(found[0, 0], np.array([50, 25, 0]) + 127, atol=1)


def test_cmyk_becomes_rgb():
    inks = np.array([[(0, 255, 255, 0), (255, 255, 0, 0), (0, 0, 0, 255), (0, 0, 0, 0)]], np.uint8).repeat(8, 1)
    planes = [Image.fromarray(np.ascontiguousarray(inks.repeat(8, 0)[..., ink])) for ink in range(4)]
    image = Image.merge("CMYK", planes)
    right = [(255, 0, 0), (0, 0, 255), (0, 0, 0), (255, 255, 255)]
    jpeg = as_file(image, "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in jpeg  # and so inverted
    for content, close in ((jpeg, 8), (as_file(image, "TIFF"), 0)):
        np.testing.assert_allclose(decode(content)[4, 4::8].astype(int), right, atol=close)


def decode_or_error(content):
    """Return the pixels, or the BadImage that is raised."""
    try:
        return decode(content, Limits(pixels=1_000_000))
    except BadImage as error:
        return error


def oriented(upright, orientation):
    """Store an upright image in an EXIF orientation, defined by the sides that row 0 and column 0 of the file show."""
    first_row, first_column = {
        1: ("top", "left"), 2: ("top", "right"), 3: ("bottom", "right"), 4: ("bottom", "left"),
        5: ("left", "top"), 6: ("right", "top"), 7: ("right", "bottom"), 8: ("left", "bottom"),
    }[orientation]  # fmt: skip
    stored = upright.swapaxes(0, 1) if first_row in ("left", "right") else upright
    stored = stored[::-1] if first_row in ("right", "bottom") else stored
    return np.ascontiguousarray(stored[:, ::-1] if first_column in ("right", "bottom") else stored)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    upright = smooth(16, 24)
    options = {"JPEG": {"quality": 100, "subsampling": 0}, "WEBP": {"lossless": True}}.get(kind, {})
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = as_file(oriented(upright, orientation), kind, exif=exif, **options)
    np.testing.assert_allclose(decode(content).astype(int), upright, atol=6 if kind == "JPEG" else 0)
    header = read_header(content, Limits())
    assert header.upright == (24, 16)
    assert (header.width, header.height) == ((24, 16) if orientation < 5 else (16, 24))


@settings(deadline=None, max_examples=200)
@given(st.binary(max_size=60), st.sampled_from([b"", b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08"]))
def test_broken_exif_is_ignored_silently(rest, start):
    assert 1 <= exif_orientation(start + rest) <= 8
    segment = b"Exif\0\0" + start + rest
    jpeg = as_file(noise(), "JPEG")
    marked = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + jpeg[2:]
    assert sorted(decode(marked).shape) == [3, 6, 8]


def test_the_first_frame_of_an_animation_and_the_first_page_of_a_tiff_are_decoded():
    frames = [Image.fromarray(np.full((8, 6, 3), value, np.uint8)) for value in (40, 200)]
    for kind, options in (("GIF", {}), ("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {})):
        content = as_file(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert Image.open(io.BytesIO(content)).n_frames == 2
        np.testing.assert_array_equal(decode(content), np.asarray(frames[0]))


@pytest.mark.parametrize("kind", FORMATS)
def test_limits_are_checked_before_decoding(kind):
    content = as_file(np.zeros((40, 50, 3), np.uint8), kind)
    assert kind_of(content, Limits(pixels=1999)) == "too many pixels"
    assert kind_of(content, Limits(side=49)) == "too many pixels"
    assert kind_of(content, Limits(min_side=41)) == "too small"
    assert kind_of(content, Limits(bytes=len(content) - 1)) == "too many bytes"
    most = Limits(pixels=2000, side=50, min_side=40, bytes=len(content))
    assert decode(content, most).shape == (40, 50, 3)


def bombs():
    huge = 100_000
    yield b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", huge, huge, 8, 2, 0, 0, 0))
    yield png(huge, huge, 8, 2, [b"\0" * 1000])
    yield b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 17, 8, 65_000, 65_000, 3) + bytes(range(9)) + b"\xff\xda"
    yield b"GIF89a" + struct.pack("<HHBBB", 65_000, 65_000, 0, 0, 0)
    yield b"GIF89a" + struct.pack("<HHBBB", 1, 1, 0, 0, 0) + b"," + struct.pack("<4H", 9, 9, 65_000, 65_000)
    yield b"BM" + bytes(12) + struct.pack("<Iii", 40, huge, -huge)
    yield b"RIFF\x16\0\0\0WEBPVP8X\x0a\0\0\0" + bytes(4) + b"\xff\xff\xff" * 2
    yield b"II*\0\x08\0\0\0\2\0" + struct.pack("<HHIIHHII", 256, 4, 1, huge, 257, 4, 1, huge) + bytes(4)


def test_a_decompression_bomb_is_refused_by_its_header_without_allocating_memory():
    for content in bombs():
        tracemalloc.start()
        assert kind_of(content) == "too many pixels"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "not an image"),
        (b"<!DOCTYPE html><html>404 not found</html>", "not an image"),
        (b'{"error": "gone"}', "not an image"),
        (bytes(1000), "not an image"),
        (b"RIFF\x10\0\0\0WAVEfmt ", "not an image"),
        (b"\0\0\0\x1cftypheic" + bytes(20), "format"),
        (b"\xff\xd8", "truncated"),
        (b"\x89PNG\r\n\x1a\n", "truncated"),
        (b"GIF89a\1\0", "truncated"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\x0dIDAT", "broken"),
    ],
)
def test_bytes_that_are_no_image_have_a_kind_of_fault(content, kind):
    assert kind_of(content) == kind


def test_the_error_shows_the_first_bytes_and_the_expected_formats():
    with pytest.raises(BadImage, match=r"expected JPEG, PNG.*got 9 bytes.*<html>404.*HTML"):
        decode(b"<html>404")


def test_a_png_with_a_flipped_bit_is_refused():
    content = bytearray(as_file(noise(32, 32)))
    content[len(content) // 2] ^= 1
    assert kind_of(bytes(content)) == "broken"


WHOLE = {
    "JPEG": as_file(smooth(), "JPEG"),
    "progressive": as_file(smooth(), "JPEG", progressive=True),
    "PNG": as_file(smooth()),
    "WEBP": as_file(smooth(), "WEBP"),
    "GIF": as_file(Image.fromarray(smooth()).quantize(64), "GIF"),
    "BMP": as_file(smooth(), "BMP"),
    "TIFF": as_file(smooth(), "TIFF"),
    "LZW": as_file(smooth(), "TIFF", compression="tiff_lzw"),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_file_gives_the_exact_image_or_is_refused(kind, capfd):
    whole = WHOLE[kind]
    right, refused = decode(whole), 0

    @settings(deadline=None, max_examples=150)
    @given(st.integers(0, len(whole) - 1))
    def check(length):
        nonlocal refused
        found = decode_or_error(whole[:length])
        if isinstance(found, BadImage):
            assert found.kind in ("truncated", "broken", "not an image")
            refused += 1
        else:
            np.testing.assert_array_equal(found, right)

    check()
    assert refused > 50
    assert kind_of(whole[: len(whole) * 3 // 4]) in ("truncated", "broken")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_with_changed_bytes_gives_an_image_or_is_refused(kind, capfd):
    @settings(deadline=None, max_examples=150)
    @given(st.lists(st.tuples(st.integers(0, len(WHOLE[kind]) - 1), st.integers(0, 255)), min_size=1, max_size=4))
    def check(changes):
        content = bytearray(WHOLE[kind])
        for place, value in changes:
            content[place] = value
        found = decode_or_error(bytes(content))
        if isinstance(found, BadImage):
            assert found.kind and found.reason
        else:
            assert found.dtype == np.uint8 and found.ndim == 3

    check()
    if kind != "LZW":  # libtiff itself writes to standard error
        assert capfd.readouterr() == ("", "")


def test_a_jpeg_may_be_decoded_at_a_reduced_size_no_smaller_than_min_side():
    image = smooth(60, 80).repeat(8, 0).repeat(8, 1)  # 480 x 640
    content = as_file(image, "JPEG", quality=95)
    for least, sides in ((481, (480, 640)), (240, (240, 320)), (239, (240, 320)), (64, (60 * 2, 160)), (60, (60, 80))):
        assert decode(content, min_side=least).shape[:2] == sides
    eighth = decode(content, min_side=60).astype(int)
    np.testing.assert_allclose(eighth, smooth(60, 80), atol=8)  # each block has one colour
    np.testing.assert_array_equal(decode(as_file(image), min_side=60), image)


def test_threads_decode_the_same_pixels_as_one_thread():
    contents = [WHOLE[kind] for kind in WHOLE] * 8
    alone = [decode(content) for content in contents]
    with ThreadPoolExecutor(8) as pool:
        for found, right in zip(pool.map(decode, contents), alone, strict=True):
            np.testing.assert_array_equal(found, right)
