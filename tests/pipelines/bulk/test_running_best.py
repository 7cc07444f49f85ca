import jax.numpy as jnp
import numpy as np

from dalle_jax.parallel.layout import jit
from dalle_jax.pipelines.bulk.running_best import RunningBest, keep_best, pick_kept
from dalle_jax.pipelines.ranker import best_candidates

KEEP, SIZE = 3, 6
COUNTS = (10, 2, 4, 1, 7)


def test_the_best_over_batches_are_those_of_all_candidates_with_ties_and_nan():
    rng = np.random.default_rng(0)
    scores = [rng.integers(0, 4, count).astype(np.float32) for count in COUNTS]
    scores[0][[2, 7]] = np.nan
    images = [rng.integers(0, 256, (count, 2, 2, 3), np.uint8) for count in COUNTS]
    every = [(prompt, number) for prompt, count in enumerate(COUNTS) for number in range(count)]
    running, keep, pick = RunningBest.none(KEEP, (2, 2, 3)), jit(keep_best), jit(pick_kept)
    found = {}
    for start in range(0, len(every), SIZE):  # the second batch begins within the first prompt
        rows = every[start : start + SIZE]
        absent = SIZE - len(rows)  # of the last batch
        pixels = jnp.asarray(np.stack([images[prompt][number] for prompt, number in rows + rows[-1:] * absent]))
        order = jnp.asarray([scores[prompt][number] for prompt, number in rows] + [9.0] * absent)
        numbers = jnp.asarray([number for _, number in rows] + [-1] * absent, jnp.int32)
        before = running
        running, ranked = keep(before, pixels, order, numbers)
        for row, (prompt, number) in enumerate(rows):
            if number == COUNTS[prompt] - 1:
                found[prompt] = pick(before.images, pixels, ranked, jnp.full(KEEP, row), jnp.arange(KEEP))
    assert sorted(found) == list(range(len(COUNTS)))
    for prompt, (candidates, kept) in found.items():
        keep_now = min(KEEP, COUNTS[prompt])
        expected = best_candidates(scores[prompt][None], keep_now)[0]
        np.testing.assert_array_equal(candidates[:keep_now], expected)
        np.testing.assert_array_equal(kept[:keep_now], images[prompt][expected])
