"""FD equals its formula, is exact for equal sets, and refuses sets that it cannot compare."""

import numpy as np
import pytest
from feature_rows import WIDTH, feature_set, random_rows
from scipy.linalg import sqrtm

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance, frechet_distance
from dalle_jax.evaluate.metrics.distributions.moments import moments_of


def by_formula(x, y):
    x, y = x.astype(np.float64), y.astype(np.float64)
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    step = x.mean(axis=0) - y.mean(axis=0)
    return step @ step + np.trace(a + b) - 2 * np.trace(sqrtm(a @ b).real)


def test_fd_is_its_formula():
    x, y = random_rows(300, 0), random_rows(200, 1, shift=0.3, scale=1.4)
    (found,) = FrechetDistance().compare(feature_set(x), feature_set(y))
    assert found.value == pytest.approx(by_formula(x, y), rel=1e-9)
    assert (found.name, found.count, found.reference_count, found.features) == ("fd", 200, 300, "fake")


def test_fd_of_a_set_with_itself_is_zero_also_with_fewer_images_than_features():
    for count in (5, 300):
        moments = moments_of(random_rows(count, 0))
        assert abs(frechet_distance(moments, moments)) < 1e-12 * np.trace(moments.covariance)


def test_fd_of_singular_covariances_is_that_of_the_features_that_vary():
    x, y = random_rows(100, 0), random_rows(100, 1, scale=1.3)
    wide = [np.concatenate([rows, rows[:, :2], np.ones((100, 3), np.float32)], axis=1) for rows in (x, y)]
    doubled = [rows * np.where(np.arange(WIDTH) < 2, np.sqrt(2), 1) for rows in (x, y)]
    found = frechet_distance(moments_of(wide[0]), moments_of(wide[1]))
    assert found == pytest.approx(by_formula(*doubled), rel=1e-6)


def test_fd_does_not_lose_digits_to_a_large_mean():
    x, y = random_rows(300, 0, dtype=np.float64), random_rows(300, 1, scale=1.2, dtype=np.float64)
    near, far = (frechet_distance(moments_of(x + c), moments_of(y + c)) for c in (0, 1e5))
    assert far == pytest.approx(near, rel=1e-6)


def test_the_interval_is_as_wide_as_the_spread_of_figures_of_new_images():
    def figures(seed):
        return FrechetDistance(with_noise=False).compare(
            feature_set(random_rows(150, 2 * seed)), feature_set(random_rows(150, 2 * seed + 1, shift=0.1, scale=1.2))
        )[0]

    found = [figures(seed) for seed in range(30)]
    widths = [one.interval[1] - one.interval[0] for one in found]
    spread = 2 * 1.96 * np.std([one.value for one in found])
    assert np.mean(widths) == pytest.approx(spread, rel=0.3)


def test_noise_is_the_value_of_two_samples_of_one_distribution():
    found = FrechetDistance().compare(feature_set(random_rows(200, 0)), feature_set(random_rows(150, 1, shift=1)))[0]
    same = [
        frechet_distance(moments_of(random_rows(200, 10 + i)), moments_of(random_rows(150, 50 + i))) for i in range(20)
    ]
    assert found.value > 5 * np.mean(same)
    null = FrechetDistance().compare(feature_set(random_rows(200, 3)), feature_set(random_rows(150, 4)))[0]
    assert null.noise == pytest.approx(np.mean(same), rel=0.5)
    assert null.value == pytest.approx(np.mean(same), rel=0.5)


def test_statistics_without_rows_give_the_value_but_no_noise():
    x, y = random_rows(300, 0), random_rows(200, 1, shift=0.3)
    known = FeatureSet.of_statistics("fake", x.astype(np.float64).mean(axis=0), np.cov(x, rowvar=False))
    (whole,), (found,) = (FrechetDistance().compare(one, feature_set(y)) for one in (feature_set(x), known))
    assert found.value == pytest.approx(whole.value, rel=1e-6)
    assert found.noise is None and found.reference_count is None
    assert found.interval[1] - found.interval[0] < whole.interval[1] - whole.interval[0]


@pytest.mark.parametrize(
    ("reference", "generated", "message"),
    [
        ({}, {"name": "other"}, "fd: expected features of one network and preparation, got 'fake' and 'other'"),
        ({}, {"image_size": (4, 8)}, "fd: expected images of one size, got 8x8 and 4x8"),
        ({"count": 12}, {}, "fd: expected at least 13 reference images, since a covariance of 12 features"),
        ({}, {"count": 12}, "fd: expected at least 13 generated images"),
    ],
)
def test_sets_that_are_not_comparable_are_refused(reference, generated, message):
    def built(options, seed):
        options = {"count": 20, **options}
        return feature_set(random_rows(options.pop("count"), seed), **options)

    with pytest.raises(UserError, match=message):
        FrechetDistance().compare(built(reference, 0), built(generated, 1))
