"""Rows of a fixed number, of which a compiled loop computes the first."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.pipelines.batching import first_rows


@pytest.mark.parametrize(("together", "computed"), [(1, 3), (2, 4), (6, 6)])
def test_the_first_rows_are_computed_in_whole_parts(together, computed):
    rows = jnp.arange(12.0).reshape(6, 2)
    call = jax.jit(lambda count: first_rows(lambda part: part.sum(axis=1) + 1, rows, count, together))
    found = np.asarray(call(np.array(3, np.int32)))
    expected = np.where(np.arange(6) < computed, np.arange(6) * 4 + 2, 0)
    np.testing.assert_array_equal(found, expected)
