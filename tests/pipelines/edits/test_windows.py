import numpy as np
import pytest

from dalle_jax.images.editable import Margins
from dalle_jax.pipelines.edits.windows import Tile, Window, hidden_cells, windows_about, windows_beside


def holes(height, width, *boxes):
    hidden = np.zeros((height, width), bool)
    for top, bottom, left, right in boxes:
        hidden[top:bottom, left:right] = True
    return hidden


def squares(windows):
    return [one[:3] for one in windows]


def test_a_window_has_the_hole_in_its_middle_and_context_about_it():
    hole = holes(100, 200, (40, 50, 90, 110))
    assert windows_about(hole, 0.25, 8) == (Window(30, 85, 30, Tile(40, 90, 10, 20)),)
    assert squares(windows_about(hole, 1.0, 8)) == [(15, 70, 60)]


def test_a_window_has_at_least_some_pixels_and_no_more_than_the_image():
    assert squares(windows_about(holes(100, 200, (40, 42, 90, 92)), 0.25, 16)) == [(33, 83, 16)]
    assert squares(windows_about(holes(20, 200, (4, 16, 90, 106)), 2.0, 16)) == [(0, 88, 20)]
    assert squares(windows_about(holes(16, 16, (0, 16, 0, 16)), 0.25, 16)) == [(0, 0, 16)]


def test_a_window_at_the_border_reaches_beyond_the_image():
    assert squares(windows_about(holes(100, 100, (0, 20, 80, 100)), 0.25, 8)) == [(-5, 75, 30)]


def test_separate_holes_share_a_window():
    hole = holes(100, 100, (10, 20, 10, 20), (40, 50, 60, 70))
    assert squares(windows_about(hole, 0.0, 8)) == [(0, 10, 60)]


def test_a_hole_longer_than_the_image_is_high_is_divided_into_equal_tiles():
    windows = windows_about(holes(16, 100, (4, 12, 10, 90)), 0.25, 8)
    assert sorted(one.tile for one in windows) == [Tile(4, left, 8, 16) for left in (10, 26, 42, 58, 74)]
    assert all(one.side == 16 for one in windows)


def test_an_image_is_extended_to_twice_its_width_by_one_tile_of_its_own_size():
    found = windows_beside((32, 32), Margins(right=32), 0.25)
    assert found == (Window(-8, 24, 48, Tile(0, 32, 32, 32)),)


@pytest.mark.parametrize(
    ("size", "margins"),
    [
        ((20, 20), Margins(right=7)),
        ((20, 33), Margins(left=50, right=1)),
        ((37, 20), Margins(13, 41, 25, 9)),
        ((5, 9), Margins(top=30)),
    ],
)
def test_tiles_cover_the_margins_once_and_each_window_sees_known_pixels(size, margins):
    width, height = size
    whole = (height + margins.top + margins.bottom, width + margins.left + margins.right)
    known = np.zeros(whole, bool)
    known[margins.top : margins.top + height, margins.left : margins.left + width] = True
    for window in windows_beside(size, margins, 0.25):
        assert max(window.tile.height, window.tile.width) <= min(size)
        rows, columns = window.part
        assert known[max(0, rows.start) : rows.stop, max(0, columns.start) : columns.stop].any()
        assert not known[window.tile.part].any()
        known[window.tile.part] = True
    assert known.all()


def test_a_corner_is_filled_after_the_sides_beside_it():
    tiles = [one.tile[:2] for one in windows_beside((10, 10), Margins(right=10, bottom=10), 0.25)]
    assert tiles[-1] == (10, 10)


def test_a_code_is_redrawn_if_any_pixel_of_its_cell_is_hidden():
    hidden = holes(8, 8, (0, 1, 0, 1), (4, 8, 3, 5))
    np.testing.assert_array_equal(hidden_cells(hidden, 2, 2), [[True, False], [True, True]])
    np.testing.assert_array_equal(hidden_cells(hidden, 8, 8), hidden)


def test_cells_that_are_no_whole_number_of_pixels_count_all_that_they_touch():
    hidden = holes(5, 5, (2, 3, 2, 3))
    expected = np.zeros((4, 4), bool)
    expected[1:3, 1:3] = True  # a cell is 1.25 pixels: pixel 2 spans 2 .. 3, of cells 1 (1.25 .. 2.5) and 2
    np.testing.assert_array_equal(hidden_cells(hidden, 4, 4), expected)
    larger = hidden_cells(hidden, 10, 10)
    np.testing.assert_array_equal(np.argwhere(larger).min(0), [4, 4])
    assert larger.sum() == 4
