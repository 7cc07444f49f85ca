"""KID and CMMD equal their formulas over all pairs, and are unbiased or state their bias."""

import numpy as np
import pytest
from feature_rows import WIDTH, feature_set, random_rows

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions import kernel_distance
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.distributions.kernel_distance import (
    ClipDiscrepancy,
    GaussianKernel,
    KernelDistance,
    PolynomialKernel,
    squared_mmd,
)

ALL_PAIRS = KernelDistance(subsets=0)


def by_pairs(kernel, x, y):
    """Return the unbiased MMD^2 by the mean over all pairs of different rows."""
    xx, yy, xy = ([[kernel(a, b) for b in second] for a in first] for first, second in ((x, x), (y, y), (x, y)))
    off = [np.mean(np.array(k)[~np.eye(len(k), dtype=bool)]) for k in (xx, yy)]
    return sum(off) - 2 * np.mean(xy)


@pytest.mark.parametrize("block", [1024, 7])
def test_kid_is_the_mean_over_all_pairs(monkeypatch, block):
    monkeypatch.setattr(kernel_distance, "BLOCK", block)
    x, y = random_rows(55, 0).astype(np.float64), random_rows(60, 1, shift=0.5).astype(np.float64)
    (found,) = ALL_PAIRS.compare(feature_set(y.astype(np.float32)), feature_set(x.astype(np.float32)))
    assert found.value == pytest.approx(by_pairs(lambda a, b: (a @ b / WIDTH + 1) ** 3, x, y), rel=1e-9)


def test_cmmd_is_a_thousand_times_the_discrepancy_of_unit_vectors_and_states_its_bias():
    x, y = random_rows(60, 0), random_rows(80, 1, shift=0.5)
    (found,) = ClipDiscrepancy().compare(feature_set(y), feature_set(x))
    a, b = (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (x, y))

    def mean(p, q):
        return np.mean(np.exp(-np.square(p[:, None] - q).sum(-1) / 200))

    assert found.value == pytest.approx(1000 * (mean(a, a) + mean(b, b) - 2 * mean(a, b)), rel=1e-5)
    unbiased = by_pairs(lambda p, q: np.exp(-np.square(p - q).sum() / 200), a, b)
    assert found.value - found.noise == pytest.approx(1000 * unbiased, rel=1e-4)


def test_effects_are_the_derivative_for_the_weight_of_an_image():
    x, y = random_rows(40, 0).astype(np.float64), random_rows(30, 1, shift=0.5).astype(np.float64)
    kernel = GaussianKernel(5.0)
    found = squared_mmd(kernel, x, y, unbiased=False)
    copies = 1e-4  # of image 3, added to n of them
    weights = np.full(40, 1 / (40 + copies))
    weights[3] += copies / (40 + copies)
    ones = np.full(30, 1 / 30)

    def weighted(w):
        return w @ kernel(x, x) @ w + ones @ kernel(y, y) @ ones - 2 * w @ kernel(x, y) @ ones

    effect = found.effects[0] - found.effects[0].mean()
    assert (weighted(weights) - found.value) / (copies / 40) == pytest.approx(effect[3], rel=1e-3)


def test_kid_of_two_samples_of_one_distribution_is_zero_on_average_and_its_interval_covers_it():
    found = [
        ALL_PAIRS.compare(feature_set(random_rows(60, i)), feature_set(random_rows(50, 99 - i)))[0] for i in range(30)
    ]
    values = np.array([one.value for one in found])
    assert abs(values.mean()) < 2.5 * values.std() / np.sqrt(30)
    assert (values > 0).any() and (values < 0).any()
    assert np.mean([one.interval[0] <= 0 <= one.interval[1] for one in found]) >= 0.9


def test_the_mean_over_subsets_estimates_the_same_number():
    x, y = feature_set(random_rows(200, 0)), feature_set(random_rows(150, 1, shift=0.5))
    whole, subsets = KernelDistance(subsets=40, subset_size=100).compare(y, x)
    assert (whole.name, subsets.name) == ("kid", "kid_subsets")
    assert subsets.value == pytest.approx(whole.value, rel=0.1)
    (one,) = KernelDistance(subsets=1, subset_size=160).compare(y, x)  # larger than y: left out
    assert one == whole
    same = KernelDistance(subsets=1, subset_size=150).compare(y, feature_set(random_rows(150, 0)))
    assert same[1].value == pytest.approx(same[0].value, rel=1e-9)


def test_the_polynomial_kernel_is_positive_definite():
    rows = random_rows(20, 0).astype(np.float64)
    assert np.linalg.eigvalsh(PolynomialKernel()(rows, rows)).min() > -1e-8


def test_kid_needs_the_features_of_each_image_and_enough_of_them():
    moments = FeatureSet.of_statistics("fake", np.zeros(WIDTH), np.eye(WIDTH))
    with pytest.raises(UserError, match="kid: expected the features of each image, got a file of mean and covariance"):
        ALL_PAIRS.compare(moments, feature_set(random_rows(60, 0)))
    with pytest.raises(UserError, match="kid: expected at least 50 reference and generated images"):
        ALL_PAIRS.compare(feature_set(random_rows(60, 0)), feature_set(random_rows(49, 0)))
