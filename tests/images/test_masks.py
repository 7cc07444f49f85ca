import numpy as np
import pytest
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.images.masks import load_mask

HIDDEN = np.zeros((3, 5), bool)
HIDDEN[1:, 2:4] = True
WHITE = HIDDEN.astype(np.uint8) * 255
COLOURS = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)


def with_alpha(mode: str) -> Image.Image:
    """Return random colours that are transparent where pixels are hidden."""
    image = Image.fromarray(np.dstack([COLOURS, 255 - WHITE]), "RGBA")
    return image if mode == "RGBA" else image.convert(mode)


def palette(transparent: bool) -> Image.Image:
    image = Image.fromarray(HIDDEN.astype(np.uint8) if transparent else 1 - HIDDEN.astype(np.uint8), "P")
    image.putpalette([10, 200, 30, 90, 0, 0] if transparent else [255, 255, 255, 0, 0, 0])
    if transparent:
        image.info["transparency"] = 1
    return image


MASKS = {
    "RGBA, transparent": with_alpha("RGBA"),
    "LA, transparent": with_alpha("LA"),
    "L, white": Image.fromarray(WHITE),
    "1 bit, white": Image.fromarray(WHITE).convert("1"),
    "16 bit, white": Image.fromarray(WHITE.astype(np.uint16) * 257),
    "RGB in grey, white": Image.fromarray(np.repeat(WHITE[..., None], 3, axis=2)),
    "palette of black and white": palette(transparent=False),
    "palette with a transparent colour": palette(transparent=True),
}


@pytest.mark.parametrize("name", MASKS)
def test_transparent_pixels_are_filled_or_white_ones_of_a_mask_without_alpha(name, tmp_path):
    np.testing.assert_array_equal(load_mask(MASKS[name], 5, 3), HIDDEN)
    MASKS[name].save(tmp_path / "mask.png", transparency=MASKS[name].info.get("transparency"))
    np.testing.assert_array_equal(load_mask(tmp_path / "mask.png", 5, 3), HIDDEN)


def test_arrays_are_read_as_files_are_and_true_is_filled():
    for array in (HIDDEN, WHITE, WHITE[..., None], np.dstack([COLOURS, 255 - WHITE])):
        np.testing.assert_array_equal(load_mask(array, 5, 3), HIDDEN)


def test_half_of_white_and_of_the_opacity_decides():
    grey, alpha = np.array([[127, 128]], np.uint8), np.array([[[0, 127], [0, 128]]], np.uint8)
    np.testing.assert_array_equal(load_mask(grey, 2, 1), [[False, True]])
    np.testing.assert_array_equal(load_mask(Image.fromarray(alpha, "LA"), 2, 1), [[True, False]])


def test_a_mask_may_fill_all_pixels():
    assert load_mask(np.ones((3, 5), bool), 5, 3).all()


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (np.ones((5, 3), bool), "mask: expected 5 x 3 px, the size of the image, got 3 x 5 px"),
        (np.zeros((3, 5), bool), "expected at least one pixel to fill, got none; pixels to fill are transparent"),
        (Image.fromarray(np.dstack([COLOURS, np.full_like(WHITE, 255)]), "RGBA"), "expected at least one pixel"),
        (Image.fromarray(COLOURS), "expected transparency, or grey values where white is filled, got colours"),
        (Image.fromarray(COLOURS).convert("CMYK"), "got mode CMYK"),
        (HIDDEN.astype(np.float32), r"expected bool \[H W\] or uint8 .* got float32\[3, 5\]"),
    ],
)
def test_a_mask_that_does_not_say_what_to_fill_is_an_error(mask, message):
    with pytest.raises(UserError, match=message):
        load_mask(mask, 5, 3)


def test_a_file_that_is_no_image_is_named(tmp_path):
    (tmp_path / "mask.png").write_text("<html>")
    with pytest.raises(UserError, match=r"mask.png: expected JPEG, PNG"):
        load_mask(tmp_path / "mask.png", 5, 3)
