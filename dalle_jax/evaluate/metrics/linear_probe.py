"""Linear probes: the share of a quantity's variance that a linear function of features explains."""

import numpy as np

from dalle_jax.arrays import Float

RIDGE = 1e-3
"""The ridge penalty, relative to the mean variance of the features."""


def probe_r2(
    features: Float[np.ndarray, "n E"], targets: Float[np.ndarray, "n q"], trained: int
) -> Float[np.ndarray, " q"]:
    """Return R² of each target on the rows after the first ``trained``, by ridge regression on these first rows.

    R² is 1 - squared error / variance, so always predicting the mean gives 0. Raise ``ValueError`` if no row is left,
    or if a target is constant there.
    """
    if not 0 < trained < len(features):
        raise ValueError(f"trained: expected 1 to {len(features) - 1} of the {len(features)} rows, got {trained}")
    mean, target_mean = features[:trained].mean(axis=0), targets[:trained].mean(axis=0)
    x, y = features.astype(np.float64) - mean, targets.astype(np.float64) - target_mean
    gram = x[:trained].T @ x[:trained]  # [E E]
    penalty = RIDGE * np.trace(gram) / len(gram)
    weights = np.linalg.solve(gram + penalty * np.eye(len(gram)), x[:trained].T @ y[:trained])  # [E q]
    rest = y[trained:]
    spread = np.square(rest - rest.mean(axis=0)).mean(axis=0)
    if not (spread > 0).all():
        raise ValueError(
            f"targets: expected each to vary over the rows after the trained ones, got variances {spread.tolist()}"
        )
    return 1 - np.square(rest - x[trained:] @ weights).mean(axis=0) / spread
