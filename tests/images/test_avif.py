"""AVIF images: size, orientation and faults, read before Pillow sees the file."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps, features

from dalle_jax.images.decode import decode
from dalle_jax.images.header import ORIENTATION, BadImage, Limits, read_header

pytestmark = pytest.mark.skipif(not features.check("avif"), reason="Pillow was built without AVIF")


def avif(orientation=1, height=24, width=40):
    """Return a gradient of red to the right and of green downwards, and its AVIF file."""
    y, x = np.mgrid[:height, :width]
    image = Image.fromarray(np.stack([x * 6, y * 10, 0 * x], axis=2).astype(np.uint8))
    exif, out = Image.Exif(), io.BytesIO()
    exif[ORIENTATION] = orientation
    image.save(out, "AVIF", quality=95, subsampling="4:4:4", exif=exif)
    return image, out.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_and_mirrored_as_its_boxes_say(orientation):
    image, content = avif(orientation)
    header = read_header(content, Limits())
    assert (header.format, header.width, header.height, header.orientation) == ("AVIF", 40, 24, orientation)
    image.getexif()[ORIENTATION] = orientation
    expected = np.asarray(ImageOps.exif_transpose(image), np.float32)
    got = decode(content).astype(np.float32)
    assert got.shape == expected.shape and np.abs(got - expected).mean() < 4


@pytest.mark.parametrize(("orientation", "other"), [(5, 7), (7, 5), (4, 2), (2, 4)])
def test_the_other_axis_of_a_mirror_is_a_half_turn_more(orientation, other):
    content = bytearray(avif(orientation)[1])
    content[content.index(b"imir") + 4] ^= 1
    assert read_header(bytes(content), Limits()).orientation == other


def changed(found, offset, layout, *values):
    """Return an AVIF file with values packed ``offset`` bytes after the first ``found``."""
    content = bytearray(avif()[1])
    struct.pack_into(layout, content, content.index(found) + offset, *values)
    return bytes(content)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (changed(b"ispe", 8, ">II", 90_000, 90_000), "too many pixels"),
        (changed(b"ispe", -4, ">I", 10**6), "truncated"),
        (changed(b"ispe", -4, ">I", 2), "truncated"),
        (avif()[1][:200], "truncated"),
        (b"\0\0\0\x10ftypavif\0\0\0\0" + b"\0\0\0\x08free" * 100_001, "too many parts"),
    ],
)
def test_a_wrong_file_is_a_bad_image(content, kind):
    with pytest.raises(BadImage) as caught:
        decode(content)
    assert caught.value.kind == kind


def test_a_pillow_without_avif_is_named(monkeypatch):
    content = avif()[1]
    monkeypatch.setattr(features, "check", lambda name: False)
    with pytest.raises(BadImage, match="this build of Pillow cannot decode"):
        decode(content)
