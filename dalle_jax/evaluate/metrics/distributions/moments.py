"""Mean and covariance of feature vectors, accumulated in float64 without cancellation.

Letters: n rows, D features. Sets merge by the pairwise update of Chan, Golub and LeVeque (1979), which keeps the
deviations from the mean instead of sums of squares.
"""

from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float


@dataclass(frozen=True)
class Moments:
    """Number of rows, their mean, and ``scatter``: the sum of the outer products of the deviations from the mean."""

    count: int
    mean: Float[np.ndarray, " D"]
    scatter: Float[np.ndarray, "D D"]

    @property
    def covariance(self) -> Float[np.ndarray, "D D"]:
        """Return the unbiased covariance, with divisor n - 1."""
        return self.scatter / (self.count - 1)

    def __add__(self, other: "Moments") -> "Moments":
        if not self.count or not other.count:
            return self if self.count else other
        total = self.count + other.count
        step = other.mean - self.mean
        scatter = self.scatter + other.scatter
        scatter += np.outer(step, step * (self.count * other.count / total))
        return Moments(total, self.mean + step * (other.count / total), scatter)


def no_moments(width: int) -> Moments:
    """Return the moments of no rows."""
    return Moments(0, np.zeros(width), np.zeros((width, width)))


def moments_of(rows: Float[np.ndarray, "n D"]) -> Moments:
    """Compute the moments of rows of any float type."""
    mean = rows.mean(axis=0, dtype=np.float64)
    deviations = rows - mean
    return Moments(len(rows), mean, deviations.T @ deviations)
