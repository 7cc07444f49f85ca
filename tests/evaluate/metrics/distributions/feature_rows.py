"""Feature sets of random rows with correlated columns of falling variance."""

import numpy as np

from dalle_jax.evaluate.metrics.distributions.feature_set import MOST_ROWS, FeatureRows, FeatureSet

WIDTH = 12


def random_rows(count, seed, width=WIDTH, shift=0.0, scale=1.0, dtype=np.float32):
    mixing = np.random.default_rng(99).normal(size=(width, width)) * np.arange(1, width + 1) ** -0.7
    rows = np.random.default_rng(seed).normal(size=(count, width)) @ mixing.T * scale + shift + 3
    return rows.astype(dtype)


def feature_set(rows, first=0, name="fake", image_size=(8, 8), most_rows=MOST_ROWS, batch=50):
    out = FeatureSet(name, rows.shape[1], image_size, most_rows)
    for start in range(0, len(rows), batch):
        part = rows[start : start + batch]
        out.update(FeatureRows(np.arange(first + start, first + start + len(part)), part))
    return out
