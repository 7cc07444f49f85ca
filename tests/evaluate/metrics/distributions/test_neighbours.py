"""Precision, recall, density and coverage equal a count by brute force, in any blocks."""

import numpy as np
import pytest
from feature_rows import feature_set, random_rows

from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions import neighbours
from dalle_jax.evaluate.metrics.distributions.neighbours import NeighbourShares


def by_brute_force(x, y, precision_k=3, density_k=5):
    def distances(a, b):
        return np.linalg.norm(a[:, None].astype(np.float64) - b, axis=-1)

    def radii(a, k):
        return np.sort(distances(a, a), axis=1)[:, k]

    between = distances(x, y)
    held = between <= radii(y, density_k)
    return {
        "precision": (between <= radii(y, precision_k)).any(axis=1).mean(),
        "recall": (between <= radii(x, precision_k)[:, None]).any(axis=0).mean(),
        "density": held.sum() / density_k / len(x),
        "coverage": held.any(axis=0).mean(),
    }


@pytest.mark.parametrize("block", [4_000_000, 5000])
def test_shares_are_a_count_by_brute_force(monkeypatch, block):
    monkeypatch.setattr(neighbours, "BLOCK", block)
    x, y = random_rows(120, 0, shift=0.4), random_rows(150, 1)
    found = NeighbourShares().compare(feature_set(y), feature_set(x))
    for one in found:
        assert one.value == pytest.approx(by_brute_force(x, y)[one.name], abs=1e-12)
        assert one.interval[0] <= one.value <= one.interval[1]
        assert one.count == 120 and one.reference_count == 150
    assert 0.2 < found[0].value < 1


def test_dropped_modes_lower_recall_and_coverage_and_not_precision():
    modes = np.repeat(np.arange(2) * 50.0, 100)[:, None].astype(np.float32)
    reference = feature_set(random_rows(200, 0) + modes)
    kept = {one.name: one.value for one in NeighbourShares().compare(reference, feature_set(random_rows(200, 1)))}
    assert kept["recall"] <= 0.5 and kept["coverage"] <= 0.5 and kept["precision"] > 0.8


def test_wrong_numbers_are_refused():
    many, few = feature_set(random_rows(120, 0)), feature_set(random_rows(99, 1))
    with pytest.raises(UserError, match="precision: expected at least 100 reference and generated images"):
        NeighbourShares().compare(many, few)
    with pytest.raises(UserError, match="expected at least 1, got 0 and 5"):
        NeighbourShares(precision_k=0).compare(many, many)
