"""Feature sets are the same in any order of batches, on any number of hosts, and keep bounded memory."""

import numpy as np
import pytest
from feature_rows import WIDTH, feature_set, random_rows

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet


def merged(parts):
    out = parts[0]
    for part in parts[1:]:
        out.merge(part)
    return out


def test_merged_sets_are_the_whole_set():
    rows = random_rows(230, 0)
    whole = feature_set(rows)
    strides = []
    for start in (2, 0, 1):
        part = FeatureSet("fake", WIDTH, (8, 8))
        part.update(FeatureRows(np.arange(start, 230, 3), rows[start::3]))
        strides.append(part)
    found = merged(strides)
    np.testing.assert_array_equal(found.rows().features, whole.rows().features)
    np.testing.assert_array_equal(found.rows().numbers, np.arange(230))
    assert found.count == 230
    np.testing.assert_allclose(found.moments.mean, rows.mean(axis=0, dtype=np.float64), rtol=1e-12)
    np.testing.assert_allclose(found.moments.covariance, np.cov(rows.astype(np.float64), rowvar=False), rtol=1e-10)


def test_kept_rows_are_bounded_and_do_not_depend_on_order_or_parts():
    rows = random_rows(500, 0)
    whole = feature_set(rows, most_rows=40, batch=30)
    parts = [feature_set(rows[start : start + 100], start, most_rows=40, batch=7) for start in (300, 100, 400, 0, 200)]
    found = merged(parts)
    assert len(whole.rows()) == 40 and whole.count == found.count == 500
    np.testing.assert_array_equal(found.rows().numbers, whole.rows().numbers)
    np.testing.assert_array_equal(found.rows().features, rows[whole.rows().numbers])
    assert sum(map(len, feature_set(rows, most_rows=40, batch=10)._kept)) <= 50


def test_kept_rows_are_spread_over_the_whole_set():
    numbers = feature_set(random_rows(2000, 0), most_rows=400).rows().numbers
    counts, _ = np.histogram(numbers, bins=4, range=(0, 2000))
    assert counts.min() > 70


def test_a_set_returns_from_its_arrays():
    whole = feature_set(random_rows(60, 0))
    found = FeatureSet("fake", WIDTH, (8, 8)).from_arrays(whole.arrays())
    assert found.arrays().keys() == whole.arrays().keys()
    for name, array in whole.arrays().items():
        np.testing.assert_array_equal(found.arrays()[name], array)
    assert found.image_size == (8, 8)


def test_a_set_without_images_takes_the_size_of_the_other():
    found = FeatureSet("fake", WIDTH)
    found.merge(feature_set(random_rows(60, 0)))
    assert found.image_size == (8, 8) and found.count == 60
    assert FeatureSet("fake", WIDTH).from_arrays(FeatureSet("fake", WIDTH).arrays()).image_size is None


def test_wrong_features_are_refused_in_one_line():
    rows = random_rows(4, 0)
    rows[2, 3] = np.nan
    with pytest.raises(UserError, match="got NaN or infinity for 1 of 4 images, the first of them number 7"):
        feature_set(rows, first=5)
    with pytest.raises(UserError, match=r"expected \[4, 12\] of fake, got \[4, 5\]"):
        FeatureSet("fake", WIDTH).update(FeatureRows(np.arange(4), np.zeros((4, 5), np.float32)))
    with pytest.raises(UserError, match="expected each once, got number 3 more than once"):
        feature_set(random_rows(4, 0)).merge(feature_set(random_rows(4, 1), first=3))
    with pytest.raises(UserError, match="expected features of one network and preparation"):
        feature_set(random_rows(4, 0)).merge(feature_set(random_rows(4, 1), first=4, name="other"))
