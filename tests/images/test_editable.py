import io

import numpy as np
import pytest
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.images.editable import Margins, load_editable
from tests.images.test_decode import png

RNG = np.random.default_rng(0)
NEW = RNG.integers(0, 256, (6, 5, 3), dtype=np.uint8)
HIDDEN = np.zeros((6, 5), bool)
HIDDEN[2:5, 1:3] = True
DEPTHS = {"RGB": 3, "RGBA": 4, "L": 1, "LA": 2}


def image_of(mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(RNG.integers(0, 65536, (6, 5), dtype=np.uint16))
    values = RNG.integers(0, 256, (6, 5, DEPTHS[mode]), dtype=np.uint8)
    return Image.fromarray(values[..., 0] if mode == "L" else values, mode)


def read_again(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        *((mode, "PNG") for mode in (*DEPTHS, "I;16")),
        ("RGB", "TIFF"), ("RGBA", "TIFF"), ("I;16", "TIFF"), ("RGB", "WEBP"), ("RGBA", "WEBP"), ("RGB", "BMP"),
    ],
)  # fmt: skip
def test_an_edit_keeps_mode_format_and_every_other_pixel_to_the_last_bit(tmp_path, mode, form):
    given, path = image_of(mode), tmp_path / "image.file"
    given.save(path, format=form, **({"lossless": True, "exact": True} if form == "WEBP" else {}))
    editable = load_editable(path)
    content = editable.encode(editable.filled(NEW, HIDDEN))
    again = read_again(content)
    assert (again.format, again.mode, again.size) == (form, mode, (5, 6))
    np.testing.assert_array_equal(np.asarray(again)[~HIDDEN], np.asarray(given)[~HIDDEN])
    drawn = np.asarray(again)[HIDDEN]
    if mode in ("RGB", "RGBA"):
        np.testing.assert_array_equal(drawn[:, :3], NEW[HIDDEN])
    else:
        grey = np.asarray(Image.fromarray(NEW).convert("L"))[HIDDEN].astype(int)
        np.testing.assert_array_equal(drawn[:, 0] if mode == "LA" else drawn, grey * (257 if mode == "I;16" else 1))
    if mode in ("RGBA", "LA"):
        assert (drawn[:, -1] == 255).all()


def test_a_jpeg_and_a_gif_become_png_with_the_pixels_that_they_show(tmp_path):
    smooth = np.indices((6, 5, 3)).sum(0).astype(np.uint8) * 9
    for form in ("JPEG", "GIF"):
        Image.fromarray(smooth).save(tmp_path / "given", format=form)
        shown = np.asarray(Image.open(tmp_path / "given").convert("RGB"))
        editable = load_editable(tmp_path / "given")
        again = read_again(editable.encode(editable.filled(NEW, HIDDEN)))
        assert (again.format, editable.suffix) == ("PNG", "png")
        np.testing.assert_array_equal(np.asarray(again)[~HIDDEN], shown[~HIDDEN])


@pytest.mark.parametrize("mode", ["P", "1", "CMYK"])
def test_other_modes_keep_the_colours_that_they_stand_for(mode):
    given = image_of("RGB").convert(mode)
    editable = load_editable(given)
    assert editable.mode == ("L" if mode == "1" else "RGB")
    result = editable.filled(NEW, HIDDEN).convert("RGB")
    np.testing.assert_array_equal(np.asarray(result)[~HIDDEN], np.asarray(given.convert("RGB"))[~HIDDEN])


def test_a_palette_with_a_transparent_colour_becomes_rgba(tmp_path):
    indices = Image.fromarray(np.arange(30, dtype=np.uint8).reshape(6, 5) % 3, "P")
    indices.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    indices.save(tmp_path / "p.png", transparency=2)
    editable = load_editable(tmp_path / "p.png")
    assert editable.mode == "RGBA"
    np.testing.assert_array_equal(editable.transparent(), np.arange(30).reshape(6, 5) % 3 == 2)


def test_the_colour_profile_stays_and_a_turned_photo_is_upright(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # the camera was turned by a quarter
    Image.fromarray(NEW).save(tmp_path / "a.jpg", exif=exif, icc_profile=b"a profile")
    editable = load_editable(tmp_path / "a.jpg")
    assert editable.size == (6, 5)
    assert read_again(editable.encode(editable.filled(editable.pixels, HIDDEN.T))).info["icc_profile"] == b"a profile"


def test_margins_are_hidden_and_the_image_lies_within_them():
    editable = load_editable(image_of("LA"))
    larger, hidden = editable.extended(Margins(left=2, bottom=3))
    assert larger.size == (7, 9) and hidden.sum() == 63 - 30
    np.testing.assert_array_equal(larger.own[:6, 2:], editable.own)
    assert not hidden[:6, 2:].any()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (NEW.astype(np.float32), "image: expected a file name, a Pillow image or uint8"),
        (Image.fromarray(np.zeros((3, 3), np.float32)), "got an image with pixels of mode F"),
    ],
)
def test_pixels_that_cannot_be_kept_are_refused(given, message):
    with pytest.raises(UserError, match=message):
        load_editable(given)


def test_colours_of_16_bits_are_refused_since_pillow_reads_8(tmp_path):
    (tmp_path / "deep.png").write_bytes(png(1, 1, 16, 2, [bytes(6)]))
    with pytest.raises(UserError, match=r"deep.png: PNG file with pixels of the kind RGB;16B, expected 8 bits"):
        load_editable(tmp_path / "deep.png")
