"""Statistics return from their file, whose fingerprints are checked; files of other programs are read."""

import numpy as np
import pytest
from feature_rows import WIDTH, feature_set, random_rows

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance
from dalle_jax.evaluate.metrics.distributions.sliced_wasserstein import SlicedWasserstein
from dalle_jax.evaluate.metrics.distributions.statistics_file import (
    FeatureName,
    cached_statistics,
    read_statistics,
    write_statistics,
)

MIND = SlicedWasserstein(directions=20)


def test_a_set_returns_from_its_file_with_every_figure(tmp_path):
    one, other = feature_set(random_rows(300, 0)), feature_set(random_rows(200, 1, shift=0.3))
    write_statistics(tmp_path / "a.npz", one, "data-1")
    found = read_statistics(tmp_path / "a.npz", "fake", WIDTH, "data-1")
    assert found.count == 300 and found.image_size == (8, 8)
    assert MIND.compare(found, other) == MIND.compare(one, other)
    (fresh,), (read,) = FrechetDistance().compare(one, other), FrechetDistance().compare(found, other)
    assert read.value == pytest.approx(fresh.value, rel=1e-9)
    assert [path.name for path in tmp_path.iterdir()] == ["a.npz"]


def test_other_programs_find_mu_and_sigma(tmp_path):
    one = feature_set(random_rows(300, 0))
    write_statistics(tmp_path / "a.npz", one, "data-1")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        np.testing.assert_array_equal(found["mu"], one.moments.mean)
        np.testing.assert_array_equal(found["sigma"], one.moments.covariance)


def test_statistics_of_other_programs_serve_fd_and_no_other_metric(tmp_path):
    rows, other = random_rows(300, 0), feature_set(random_rows(200, 1, shift=0.3))
    np.savez(tmp_path / "adm.npz", mu=rows.mean(axis=0), sigma=np.cov(rows, rowvar=False))
    found = read_statistics(tmp_path / "adm.npz", "fake", WIDTH)
    (expected,), (read,) = FrechetDistance().compare(feature_set(rows), other), FrechetDistance().compare(found, other)
    assert read.value == pytest.approx(expected.value, rel=1e-5) and read.reference_count is None
    with pytest.raises(UserError, match="mind: expected the features of each image, got a file of mean and covariance"):
        MIND.compare(found, other)
    with pytest.raises(UserError, match="merge: expected sets of known numbers of images"):
        other.merge(found)


def test_the_cache_measures_once_for_each_network_and_data_and_again_what_is_damaged(tmp_path):
    calls, lines = [], []

    def found(data, *names):
        def measure(missing):
            calls.append((data, [names[index] for index in missing]))
            return [feature_set(random_rows(30, index), name=names[index]) for index in missing]

        networks = [FeatureName(name, WIDTH) for name in names]
        return cached_statistics(tmp_path, networks, data, measure, lines.append)

    found("one", "a")
    found("one", "a", "b")
    found("two", "b")
    assert calls == [("one", ["a"]), ("one", ["b"]), ("two", ["b"])]
    assert [one.features for one in found("one", "a", "b")] == ["a", "b"]
    np.testing.assert_array_equal(found("one", "b")[0].rows().features, random_rows(30, 1))
    (damaged,) = tmp_path.glob("a-*.npz")
    damaged.write_bytes(damaged.read_bytes()[:3000])
    assert found("one", "a")[0].count == 30 and calls[-1] == ("one", ["a"])
    assert len(calls) == 4 and lines[-1].endswith("; measured again")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features": b"other"}, "expected features of 'fake', got those of 'other'"),
        ({"data": b"data-2"}, "expected statistics of the data data-1, got those of data-2"),
        ({"mu": np.zeros(5)}, r"expected mu \[12\] and sigma \[12, 12\] of fake, got \[5\]"),
        ({"sigma": np.full((12, 12), np.nan)}, "expected finite numbers, got NaN or infinity in mu or sigma"),
        ({"count": np.asarray(9)}, r"expected the numbers of 9 images and rows \[n, 12\] of some of them"),
        ({"rows": None}, "expected arrays as dalle-jax writes them, got {'rows': 'nothing'}"),
        ({"rows": np.zeros((30, 12))}, r"got {'rows': \('float64', 2\)}"),
        ({"mu": None}, "expected statistics with mu and sigma, got a file without mu"),
    ],
)
def test_files_of_other_data_and_damaged_files_are_refused(tmp_path, change, message):
    write_statistics(tmp_path / "a.npz", feature_set(random_rows(30, 0)), "data-1")
    with np.load(tmp_path / "a.npz") as found:
        arrays = dict(found)
    for name, value in change.items():
        arrays[name] = np.frombuffer(value, np.uint8) if isinstance(value, bytes) else value
    np.savez(tmp_path / "b.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=message):
        read_statistics(tmp_path / "b.npz", "fake", WIDTH, "data-1")


def test_a_file_of_something_else_is_refused(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"a\.npz"):
        read_statistics(tmp_path / "a.npz", "fake", WIDTH)
