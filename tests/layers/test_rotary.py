import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.layers.rotary import grid_rotary_table, rotate


def test_a_code_rotates_the_first_half_of_the_pairs_by_its_row_and_the_second_by_its_column():
    grid, size, context, base = (3, 4), 8, 2, 100.0
    table = grid_rotary_table(grid, size, context, base)
    assert table.shape == (2 + 12, 4, 2)
    x = np.asarray(jax.random.normal(jax.random.key(0), (14, size)))
    turned = np.asarray(rotate(jnp.asarray(x), jnp.asarray(table)))
    for position in range(14):
        for pair in range(4):
            value = complex(x[position, 2 * pair], x[position, 2 * pair + 1])
            if position < context:
                expected = 0j
            else:
                row, column = divmod(position - context, 4)
                angle = (row if pair < 2 else column) * base ** (-2 * (pair % 2) / (size / 2))
                expected = value * np.exp(1j * angle)
            np.testing.assert_allclose(turned[position, 2 * pair], expected.real, atol=1e-6)
            np.testing.assert_allclose(turned[position, 2 * pair + 1], expected.imag, atol=1e-6)


def test_scores_depend_on_the_distance_of_two_codes_in_rows_and_columns():
    table = jnp.asarray(grid_rotary_table((5, 5), 8, 0))
    q, k = jax.random.normal(jax.random.key(0), (2, 8))
    scores = np.asarray(rotate(jnp.tile(q, (25, 1)), table) @ rotate(jnp.tile(k, (25, 1)), table).T).reshape(5, 5, 5, 5)
    np.testing.assert_allclose(scores[1:, :, 1:, :], scores[:-1, :, :-1, :], atol=1e-5)
    np.testing.assert_allclose(scores[:, 1:, :, 1:], scores[:, :-1, :, :-1], atol=1e-5)
    assert abs(scores[0, 0, 1, 0] - scores[0, 0, 0, 1]) > 1e-3
