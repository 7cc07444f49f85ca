import numpy as np
import pytest

from dalle_jax.evaluate.metrics.linear_probe import probe_r2


def test_a_linear_target_is_explained_and_noise_is_not():
    rng = np.random.default_rng(0)
    features = rng.normal(size=(600, 5)) + 3.0
    linear = features @ rng.normal(size=5) - 7.0
    half = linear + rng.normal(size=600) * linear.std()  # half of the variance is noise
    noise = rng.normal(size=600)
    found = probe_r2(features, np.stack([linear, half, noise], axis=1), 400)
    np.testing.assert_allclose(found, [1.0, 0.5, 0.0], atol=0.1)


def test_a_probe_needs_rows_to_be_measured_on_and_targets_that_vary():
    features = np.random.default_rng(0).normal(size=(8, 2))
    with pytest.raises(ValueError, match="trained: expected 1 to 7 of the 8 rows, got 8"):
        probe_r2(features, features, 8)
    with pytest.raises(ValueError, match="targets: expected each to vary"):
        probe_r2(features, np.ones((8, 1)), 4)
