import numpy as np
import pytest

from dalle_jax.train import metrics
from dalle_jax.train.metrics import perplexity, usage


def test_means_are_weighted_over_all_that_is_added_up():
    first, second = metrics.as_float32({"loss": (6.0, 2)}), metrics.as_float32({"loss": (3.0, 1), "other": (1.0, 0)})
    assert metrics.divide(metrics.merge(first, second)) == {"loss": 3.0}


def test_perplexity_and_usage_are_those_of_all_steps_since_the_last_line_and_not_of_one_batch():
    """Each batch has eight places and uses four of eight codes; together they use all of them."""
    batches = [np.repeat([2.0, 0.0], 4), np.repeat([0.0, 2.0], 4)]
    sums = [metrics.as_float32({"codebook": (one, 1.0)}) for one in batches]
    assert metrics.divide(sums[0]) == {"codebook/usage": 0.5, "codebook/perplexity": pytest.approx(4)}
    both = metrics.divide(metrics.merge(*sums))
    assert both == {"codebook/usage": 1.0, "codebook/perplexity": pytest.approx(8)}


def test_perplexity_counts_equally_used_codes():
    assert perplexity(np.array([5.0, 0.0, 0.0])) == pytest.approx(1)
    assert perplexity(np.array([2.0, 2.0, 2.0, 2.0, 0.0])) == pytest.approx(4)
    # shares 3/4 and 1/4: exp(0.75 ln(4/3) + 0.25 ln 4)
    assert perplexity(np.array([3.0, 1.0])) == pytest.approx((4 / 3) ** 0.75 * 4**0.25)


def test_usage_is_the_share_of_the_codes_that_could_occur():
    assert usage(np.array([5.0, 0.0, 1.0, 0.0])) == 0.5
    assert usage(np.repeat([1.0, 0.0], [1024, 15360])) == 1.0  # 4 images of 256 codes over 16,384
    assert usage(np.repeat([4.0, 0.0], [256, 16128])) == 0.25
