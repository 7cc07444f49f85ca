"""Maximum mean discrepancy (MMD) of features: KID with a polynomial kernel, CMMD with a Gaussian one.

Letters: n, m images, D features. MMD^2 = E k(x, x') + E k(y, y') - 2 E k(x, y) (Gretton et al. 2012, JMLR 13). The
unbiased estimate leaves out the pairs of an image with itself (its equation 3), the biased one keeps them (equation 5).
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.evaluate.metrics.bootstrap import bootstrap_interval
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.distributions.set_comparison import require_comparable_sets, require_rows
from dalle_jax.evaluate.metrics.metric import Measurement

BLOCK = 1024
"""Rows of a block of the kernel matrix: 8 MiB of float64, of n m values in all."""


@runtime_checkable
class Kernel(Protocol):
    """Positive definite kernel."""

    def __call__(self, x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "n m"]:
        """Return k(x, y) of each pair of rows."""
        ...


@dataclass(frozen=True)
class PolynomialKernel:
    """k(x, y) = (x y / D + 1)^3 of KID (Binkowski et al. 2018, arXiv 1801.01401, section 4)."""

    def __call__(self, x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "n m"]:
        """Return k(x, y) of each pair of rows."""
        base = x @ y.T
        base /= x.shape[1]
        base += 1
        return base * base * base


@dataclass(frozen=True)
class GaussianKernel:
    """k(x, y) = exp(-|x - y|^2 / (2 sigma^2))."""

    sigma: float

    def __call__(self, x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"]) -> Float[np.ndarray, "n m"]:
        """Return k(x, y) of each pair of rows."""
        squared = x @ y.T
        squared *= -2
        squared += np.square(x).sum(axis=1)[:, None]
        squared += np.square(y).sum(axis=1)
        squared /= -2 * self.sigma**2
        return np.exp(squared, out=squared)


@dataclass(frozen=True)
class _Sums:
    """Sums of a kernel matrix over its columns and rows, and its diagonal if both sides are the same."""

    of_rows: Float[np.ndarray, " n"]
    of_columns: Float[np.ndarray, " m"]
    diagonal: Float[np.ndarray, " n"]


def _between(kernel: Kernel, x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"]) -> _Sums:
    rows, columns = np.zeros(len(x)), np.zeros(len(y))
    for i in range(0, len(x), BLOCK):
        for j in range(0, len(y), BLOCK):
            block = kernel(x[i : i + BLOCK], y[j : j + BLOCK])
            rows[i : i + BLOCK] += block.sum(axis=1)
            columns[j : j + BLOCK] += block.sum(axis=0)
    return _Sums(rows, columns, np.zeros(len(x)))


def _within(kernel: Kernel, x: Float[np.ndarray, "n D"]) -> _Sums:
    """Sum over one set with itself; the blocks below the diagonal are those above it, transposed."""
    rows, diagonal = np.zeros(len(x)), np.zeros(len(x))
    for i in range(0, len(x), BLOCK):
        for j in range(i, len(x), BLOCK):
            block = kernel(x[i : i + BLOCK], x[j : j + BLOCK])
            rows[i : i + BLOCK] += block.sum(axis=1)
            if i == j:
                diagonal[i : i + BLOCK] = np.diagonal(block)
            else:
                rows[j : j + BLOCK] += block.sum(axis=0)
    return _Sums(rows, rows, diagonal)


@dataclass(frozen=True)
class Discrepancy:
    """MMD^2, and the first-order effect of each row of either side on it."""

    value: float
    effects: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]


def squared_mmd(
    kernel: Kernel, x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"], unbiased: bool
) -> Discrepancy:
    """Return MMD^2 in float64. Its memory is that of a block of the kernel matrix, its time grows as (n + m)^2 D."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    own, other, between = _within(kernel, x), _within(kernel, y), _between(kernel, x, y)

    def means(sums: _Sums) -> Float[np.ndarray, " _"]:
        count = len(sums.of_rows)
        return (sums.of_rows - sums.diagonal) / (count - 1) if unbiased else sums.of_rows / count

    x_means, y_means = means(own), means(other)
    value = x_means.mean() + y_means.mean() - 2 * between.of_rows.sum() / (len(x) * len(y))
    effects = 2 * (x_means - between.of_rows / len(y)), 2 * (y_means - between.of_columns / len(x))
    return Discrepancy(float(value), effects)


@dataclass(frozen=True)
class KernelDistance:
    """KID: unbiased MMD^2 with the polynomial kernel, of all pairs ("kid") and as published ("kid_subsets").

    The published form is the mean over ``subsets`` random subsets of ``subset_size`` images of each side. Subsets are
    drawn as in torch-fidelity 0.4. It is left out with ``subsets`` = 0 and with fewer than ``subset_size`` images. Both
    are unbiased, so equal distributions give 0 on average, and values may be negative.
    """

    subsets: int = 100
    subset_size: int = 1000
    seed: int = 2020
    fewest: int = 50

    def compare(self, reference: FeatureSet, generated: FeatureSet) -> tuple[Measurement, ...]:
        """Return the measurements "kid" and "kid_subsets"."""
        require_comparable_sets("kid", reference, generated)
        why = "its interval is wider than any difference with fewer"
        y, x = (require_rows("kid", side, self.fewest, why) for side in (reference, generated))
        found = squared_mmd(PolynomialKernel(), x, y, unbiased=True)
        interval = bootstrap_interval(found.value, found.effects)
        out = [Measurement("kid", found.value, len(x), interval, None, len(y), generated.features)]
        if self.subsets and min(len(x), len(y)) >= self.subset_size:
            mean = self._mean_of_subsets(x, y)
            interval = bootstrap_interval(mean, found.effects)
            out.append(Measurement("kid_subsets", mean, len(x), interval, None, len(y), generated.features))
        return tuple(out)

    def _mean_of_subsets(self, x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"]) -> float:
        rng = np.random.RandomState(self.seed)
        values = []
        for _ in range(self.subsets):
            first, second = (rows[rng.choice(len(rows), self.subset_size, replace=False)] for rows in (x, y))
            values.append(squared_mmd(PolynomialKernel(), first, second, unbiased=True).value)
        return float(np.mean(values))


@dataclass(frozen=True)
class ClipDiscrepancy:
    """CMMD: 1000 times the biased MMD^2 of CLIP's unit image vectors, kernel of sigma 10 (arXiv 2401.09603).

    The paper takes CLIP ViT-L/14 at 336 px. Vectors of other lengths are L2-normalised first. The bias is about
    1000 (1 / n + 1 / m) (1 - E k), since a pair of an image with itself has k = 1; it is given as ``noise``.
    """

    sigma: float = 10.0
    scale: float = 1000.0
    fewest: int = 50

    def compare(self, reference: FeatureSet, generated: FeatureSet) -> tuple[Measurement, ...]:
        """Return the measurement "cmmd"."""
        require_comparable_sets("cmmd", reference, generated)
        why = "its interval is wider than any difference with fewer"
        y, x = (_unit(require_rows("cmmd", side, self.fewest, why)) for side in (reference, generated))
        kernel = GaussianKernel(self.sigma)
        biased, unbiased = (squared_mmd(kernel, x, y, unbiased=flag) for flag in (False, True))
        value = self.scale * biased.value
        return (
            Measurement(
                name="cmmd",
                value=value,
                count=len(x),
                interval=bootstrap_interval(value, [self.scale * effect for effect in biased.effects]),
                noise=value - self.scale * unbiased.value,
                reference_count=len(y),
                features=generated.features,
            ),
        )


def _unit(rows: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n D"]:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
