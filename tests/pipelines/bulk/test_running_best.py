import jax.numpy as jnp
import numpy as np

from dalle_jax.parallel.layout import jit
from dalle_jax.pipelines.bulk.running_best import RunningBest, keep_best
from dalle_jax.pipelines.ranker import best_candidates

KEEP, SIZE = 3, 4
COUNTS = (10, 2, 4, 1, 7)


def test_the_best_over_rows_and_blocks_are_those_of_all_candidates_with_ties_and_nan():
    rng = np.random.default_rng(0)
    scores = [rng.integers(0, 4, count).astype(np.float32) for count in COUNTS]
    scores[0][[2, 7]] = np.nan
    images = [rng.integers(0, 256, (count, 2, 2, 3), np.uint8) for count in COUNTS]
    rows = [(prompt, first) for prompt, count in enumerate(COUNTS) for first in range(0, count, SIZE)]
    running, keep = RunningBest.none(KEEP, (2, 2, 3)), jit(keep_best)
    found = {}
    for start in range(0, len(rows), 3):  # the second block begins within the first prompt
        block = (rows[start : start + 3] + [rows[-1]] * 3)[:3]
        sizes = [
            min(SIZE, COUNTS[prompt] - first) * (place < len(rows) - start)
            for place, (prompt, first) in enumerate(block)
        ]

        def padded(values, block=block):
            parts = [values[prompt][first : first + SIZE] for prompt, first in block]
            return np.stack(
                [np.pad(one, ((0, SIZE - len(one)), *((0, 0),) * (one.ndim - 1)), mode="edge") for one in parts]
            )

        first = jnp.asarray([first for _, first in block], jnp.int32)
        running, after = keep(running, padded(images), padded(scores), first, jnp.asarray(sizes, jnp.int32))
        best = after.fetch()
        for place, (prompt, first) in enumerate(block):
            if sizes[place] and first + sizes[place] == COUNTS[prompt]:
                found[prompt] = best.candidates[place], best.images[place]
    assert sorted(found) == list(range(len(COUNTS)))
    for prompt, (candidates, kept) in found.items():
        keep_now = min(KEEP, COUNTS[prompt])
        expected = best_candidates(scores[prompt][None], keep_now)[0]
        np.testing.assert_array_equal(candidates[:keep_now], expected)
        np.testing.assert_array_equal(kept[:keep_now], images[prompt][expected])
