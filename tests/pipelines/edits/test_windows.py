import numpy as np
import pytest

from dalle_jax.pipelines.edits.windows import Window, covering_windows, hidden_cells, windows_about


def holes(height, width, *boxes):
    hidden = np.zeros((height, width), bool)
    for top, bottom, left, right in boxes:
        hidden[top:bottom, left:right] = True
    return hidden


def test_a_window_has_the_hole_in_its_middle_and_context_about_it():
    assert windows_about(holes(100, 200, (40, 50, 90, 110)), 0.25, 8) == (Window(30, 85, 30),)
    assert windows_about(holes(100, 200, (40, 50, 90, 110)), 1.0, 8) == (Window(15, 70, 60),)


def test_a_window_has_at_least_some_pixels_and_no_more_than_the_image():
    assert windows_about(holes(100, 200, (40, 42, 90, 92)), 0.25, 16) == (Window(33, 83, 16),)
    assert windows_about(holes(20, 200, (4, 16, 90, 110)), 2.0, 16) == (Window(0, 90, 20),)
    assert windows_about(holes(9, 9, (4, 5, 4, 5)), 0.25, 16) == (Window(0, 0, 9),)


def test_a_window_at_the_border_reaches_beyond_the_image():
    assert windows_about(holes(100, 100, (0, 20, 80, 100)), 0.25, 8) == (Window(-5, 75, 30),)


def test_separate_holes_share_a_window():
    assert windows_about(holes(100, 100, (10, 20, 10, 20), (40, 50, 60, 70)), 0.0, 8) == (Window(0, 10, 60),)


@pytest.mark.parametrize(
    "hidden",
    [
        holes(20, 50, (0, 20, 0, 50)),
        holes(37, 80, (3, 30, 5, 70)),
        holes(64, 64, (0, 64, 32, 64), (32, 64, 0, 64)),
        ~holes(70, 90, (31, 51, 33, 53)),
    ],
    ids=["all of a wide image", "a long hole", "two sides", "all sides"],
)
def test_windows_cover_all_hidden_pixels_and_begin_from_known_ones_where_there_are_any(hidden):
    side = 20
    windows = covering_windows(hidden, side)
    left_over, steps = hidden.copy(), []
    for one in windows:
        assert 0 <= one.top <= hidden.shape[0] - side and 0 <= one.left <= hidden.shape[1] - side
        part = left_over[one.rows, one.columns]
        assert part.any()
        steps.append(1 - part.mean())
        left_over[one.rows, one.columns] = False
    assert not left_over.any()
    assert all(known > 0 for known in steps[1:])
    assert np.mean(steps[1:]) >= 0.5  # half of a window is known, on average


def test_an_image_is_extended_to_twice_its_width_in_two_windows_each_half_known():
    assert covering_windows(holes(32, 64, (0, 32, 32, 64)), 32) == (Window(0, 16, 32), Window(0, 32, 32))


def test_a_hole_longer_than_the_image_is_high_takes_several_windows():
    windows = windows_about(holes(16, 100, (4, 12, 10, 90)), 0.25, 8)
    assert len(windows) > 5 and all(one.side == 16 for one in windows)


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
