import numpy as np
import pytest

from dalle_jax.layers.attention_masks import Pattern, repeat_kinds

KINDS = ["full", "row", "column", "convolutional"]


def sees(kind, i, j, width, kernel):
    """Apply the definition to one pair of image tokens."""
    if j > i:
        return False
    if kind == "full":
        return True
    if kind == "row":
        return i - j <= width
    if kind == "column":
        return i % width == j % width
    reach = kernel // 2
    offsets = {a * width + b for a in range(reach + 1) for b in range(-reach, reach + 1)}
    return i - j in offsets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("height", "width", "kernel"), [(4, 4, 3), (3, 5, 5), (6, 2, 3), (4, 4, 11)])
def test_mask_equals_brute_force(kind, height, width, kernel):
    context, codes = 3, height * width - 1
    mask = Pattern(kind, context, (height, width), kernel).mask(context + codes)
    for i in range(context + codes):
        for j in range(context + codes):
            textual = i < context or j < context
            expected = j <= i if textual else sees(kind, i - context, j - context, width, kernel)
            assert mask[i, j] == expected, (kind, i, j)


def test_row_attention_on_a_4_by_4_grid_sees_five_tokens_as_in_figure_11():
    mask = Pattern("row", 0, (4, 4)).mask(16)
    assert np.flatnonzero(mask[9]).tolist() == [5, 6, 7, 8, 9]


def test_published_pattern_is_column_where_i_minus_2_is_a_multiple_of_4_and_convolutional_last():
    kinds = repeat_kinds(("row", "column", "row", "row"), "convolutional", 64)
    for i in range(1, 64):
        assert kinds[i - 1] == ("column" if (i - 2) % 4 == 0 else "row")
    assert kinds[63] == "convolutional"


def places(codes=1024, width=32):
    """Return row and column of the query [I 1] and of the key [1 I] on the published grid."""
    i, j = np.arange(codes)[:, None], np.arange(codes)[None]
    return i // width, i % width, j // width, j % width


def test_on_the_published_grid_a_row_reaches_from_the_token_above_to_itself():
    row, column, other_row, other_column = places()
    expected = ((other_row == row) & (other_column <= column)) | ((other_row == row - 1) & (other_column >= column))
    mask = Pattern("row", 257, (32, 32)).image_mask(1024)
    np.testing.assert_array_equal(mask, expected)
    assert mask[500].sum() == 33  # the 32 before it, and itself


def test_on_the_published_grid_the_last_layer_sees_the_upper_half_of_an_11_by_11_window():
    row, column, other_row, other_column = places()
    near = (row - other_row <= 5) & (abs(column - other_column) <= 5)
    before = (other_row < row) | ((other_row == row) & (other_column <= column))
    mask = Pattern("convolutional", 257, (32, 32), 11).image_mask(1024)
    inside = (column[:, 0] >= 5) & (column[:, 0] < 32 - 5)  # at the edges the window wraps to the next row
    np.testing.assert_array_equal(mask[inside], (near & before)[inside])
    assert not np.triu(mask, 1).any()
    assert set(mask[10 * 32 + 16 :: 32].sum(axis=1)) == {5 * 11 + 6}
    wrapped = np.zeros_like(mask)
    for down in range(6):
        for across in range(-5, 6):
            distance = 32 * down + across
            if distance >= 0:
                wrapped |= np.eye(1024, k=-distance, dtype=bool)
    np.testing.assert_array_equal(mask, wrapped)


def test_on_the_published_grid_a_token_attends_to_its_column_above_it():
    row, column, other_row, other_column = places()
    mask = Pattern("column", 257, (32, 32)).image_mask(1024)
    np.testing.assert_array_equal(mask, (column == other_column) & (other_row <= row))
