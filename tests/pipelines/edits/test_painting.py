"""Inpainting and outpainting by small untrained networks: what stays, what is drawn, and from what."""

import numpy as np
import pytest
from PIL import Image
from small_painters import pixel_unclip, transformer, unclip

from dalle_jax.config.errors import UserError
from dalle_jax.images.editable import Margins
from dalle_jax.pipelines.edits.filler import FillRequest, HoleFiller, blend, fill
from dalle_jax.pipelines.edits.holes import Hole, cover, fill_holes
from dalle_jax.pipelines.edits.painting import inpaint, margins_of, outpaint
from dalle_jax.pipelines.edits.windows import Tile, Window, hidden_cells
from dalle_jax.pipelines.request import RequestOptions

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (23, 37, 3), dtype=np.uint8)
MASK = np.zeros((23, 37), bool)
MASK[5:14, 20:31] = True
PROMPT = "a big red circle"


@pytest.fixture(scope="module", params=[unclip, transformer, pixel_unclip], ids=lambda make: make.__name__)
def painter(request):
    found = request.param()
    assert isinstance(found, HoleFiller) and found.side == 16
    return found


def test_masked_pixels_are_drawn_and_all_others_stay_to_the_last_bit(painter):
    result = inpaint(painter, IMAGE, PROMPT, mask=MASK, candidates=2)
    assert result.pixels.shape == (2, 23, 37, 3)  # an image of an odd size keeps it
    for image in result.pixels:
        np.testing.assert_array_equal(image[~MASK], IMAGE[~MASK])
        assert (image[MASK] != IMAGE[MASK]).any(axis=-1).mean() > 0.9
    assert not np.array_equal(result.pixels[0], result.pixels[1])
    assert result.scores[0] >= result.scores[1]


def test_what_the_mask_hides_changes_nothing(painter):
    other = IMAGE.copy()
    other[MASK] = RNG.integers(0, 256, (MASK.sum(), 3))
    first, second = (inpaint(painter, one, PROMPT, mask=MASK, candidates=2).pixels for one in (IMAGE, other))
    np.testing.assert_array_equal(first, second)


def test_an_image_depends_on_its_seed_and_candidate_alone_in_any_batch(painter):
    options = [RequestOptions(candidates=2, keep=2, seed=seed) for seed in (4, 9)]
    left, right = Tile(0, 0, 23, 25), Tile(0, 25, 23, 12)
    windows = (Window(3, 18, 16, Tile(5, 20, 9, 11)),), (Window(0, 0, 25, left), Window(0, 14, 23, right))
    holes = [Hole(IMAGE, MASK, one, PROMPT, chosen) for one, chosen in zip(windows, options, strict=True)]
    together = fill_holes(painter, holes)
    alone = fill_holes(painter, holes[1:])[0]
    np.testing.assert_array_equal(together[1].pixels, alone.pixels)
    later = Hole(IMAGE, MASK, windows[0], PROMPT, RequestOptions(candidates=2, keep=2, seed=4, first=1))
    ranks = list(together[0].chosen).index(1), list((found := fill_holes(painter, [later])[0]).chosen).index(0)
    np.testing.assert_array_equal(found.pixels[ranks[1]], together[0].pixels[ranks[0]])


@pytest.mark.parametrize("make", [unclip, transformer])
def test_the_known_codes_of_a_window_stay_and_the_others_do_not_all(make):
    painter = make()
    window = np.repeat(RNG.integers(0, 256, (1, 16, 16, 3), dtype=np.uint8), 2, axis=0)
    hidden = np.zeros((16, 16), bool)
    hidden[6:10, 3:12] = True
    request = FillRequest(prompt=PROMPT, options=RequestOptions(candidates=2), windows=window, hidden=hidden)
    drawn = fill(painter, [request])[0].candidates
    np.testing.assert_array_equal(drawn[:, ~hidden], window[:, ~hidden])
    codes = painter.codec.encode(window)
    keep = ~hidden_cells(hidden, 4, 4)
    again = painter.codec.encode(drawn)
    np.testing.assert_array_equal(again[:, keep], codes[:, keep])


def test_a_mask_that_hides_everything_redraws_the_image(painter):
    result = inpaint(painter, IMAGE, PROMPT, mask=np.ones_like(MASK), candidates=2)
    other = inpaint(painter, 255 - IMAGE, PROMPT, mask=np.ones_like(MASK), candidates=2)
    np.testing.assert_array_equal(result.pixels, other.pixels)


def test_the_transparent_pixels_of_an_image_are_its_mask(painter):
    own = Image.fromarray(np.dstack([IMAGE, np.where(MASK, 0, 255).astype(np.uint8)]), "RGBA")
    result = inpaint(painter, own, PROMPT, candidates=2)
    assert result.images[0].mode == "RGBA"
    np.testing.assert_array_equal(result.pixels[0], inpaint(painter, IMAGE, PROMPT, mask=MASK, candidates=2).pixels[0])
    np.testing.assert_array_equal(np.asarray(result.images[0])[~MASK], np.asarray(own)[~MASK])
    with pytest.raises(UserError, match="mask: expected one for an image without transparency"):
        inpaint(painter, IMAGE, PROMPT)


def test_an_extended_image_holds_the_given_one_to_the_last_bit(painter):
    result = outpaint(painter, IMAGE, PROMPT, left=11, bottom=30, candidates=2, seed=3)
    assert result.pixels.shape == (2, 53, 48, 3)
    for image in result.pixels:
        np.testing.assert_array_equal(image[:23, 11:], IMAGE)
        assert image[23:].std() > 0 and image[:, :11].std() > 0


def test_windows_of_one_image_have_different_noise(painter):
    """Two windows of an image of which nothing is known would be equal with equal noise."""
    wide = np.zeros((16, 32, 3), np.uint8)
    windows = tuple(Window(0, left, 16, Tile(0, left, 16, 16)) for left in (0, 16))
    hole = Hole(wide, np.ones((16, 32), bool), windows, PROMPT, RequestOptions(candidates=2))
    found = fill_holes(painter, [hole])[0].pixels[0]
    assert not np.array_equal(found[:, :16], found[:, 16:])


def test_without_a_clip_the_first_candidates_are_kept():
    result = inpaint(transformer(ranked=False), IMAGE, PROMPT, mask=MASK, candidates=2)
    assert result.scores is None
    np.testing.assert_array_equal(result.chosen, [0, 1])


def test_options_that_a_model_does_not_have_and_sides_that_are_wrong_are_refused(painter):
    with pytest.raises(UserError, match="expected 0 or more, and one above 0"):
        outpaint(painter, IMAGE, PROMPT)
    with pytest.raises(UserError, match="expected 0 or more, and one above 0"):
        outpaint(painter, IMAGE, PROMPT, left=-3, right=4)
    with pytest.raises(UserError, match=r"context: expected between 0 and 100, got -1\.0"):
        inpaint(painter, IMAGE, PROMPT, mask=MASK, context=-1.0)
    with pytest.raises(UserError, match="mask: expected 37 x 23 px"):
        inpaint(painter, IMAGE, PROMPT, mask=MASK.T)


def test_a_diffusion_model_has_no_temperature():
    with pytest.raises(UserError, match="temperature: expected its default"):
        inpaint(unclip(), IMAGE, PROMPT, mask=MASK, temperature=0.5)


def test_margins_come_from_a_new_size_and_an_anchor():
    assert margins_of((10, 20), (15, 26), "center") == Margins(2, 3, 3, 3)
    assert margins_of((10, 20), (15, 26), "top-left") == Margins(0, 5, 0, 6)
    assert margins_of((10, 20), (15, 20), "right") == Margins(5, 0, 0, 0)
    with pytest.raises(UserError, match="expected at least that of the image, 10x20 px, got 9x20"):
        margins_of((10, 20), (9, 20), "center")
    with pytest.raises(UserError, match="anchor: expected one of center"):
        margins_of((10, 20), (20, 20), "middle")


def test_the_nearest_kept_pixel_stands_for_a_hidden_one():
    hidden = np.array([[False, True, True, False]])
    pixels = np.arange(12, dtype=np.uint8).reshape(1, 1, 4, 3)
    np.testing.assert_array_equal(cover(pixels, hidden)[0, 0, :, 0], [0, 0, 9, 9])
    assert len(np.unique(cover(pixels, np.ones((1, 4), bool)))) == 1


def test_a_constant_error_of_the_model_leaves_no_seam_and_fades_into_the_hole():
    kept = np.full((1, 64, 64, 3), 100, np.uint8)
    hidden = np.zeros((64, 64), bool)
    hidden[16:48, 16:48] = True
    blended = blend(kept, np.full_like(kept, 80), hidden)[0, :, :, 0].astype(int)
    np.testing.assert_array_equal(blended[~hidden], 100)
    row = blended[32]
    assert np.abs(np.diff(row)).max() <= 8  # 20 without the correction
    assert row[16] >= 95 and row[32] == 80
