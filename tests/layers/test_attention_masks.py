import numpy as np
import pytest

from dalle_jax.layers.attention_masks import Pattern, repeat_kinds

KINDS = ["full", "row", "column", "convolutional"]


def sees(kind, i, j, width, kernel):
    """The definition, one pair of image tokens at a time."""
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
