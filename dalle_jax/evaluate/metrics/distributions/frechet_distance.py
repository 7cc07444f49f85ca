"""Fréchet distance of Gaussians fitted to features: FID's formula (Heusel et al. 2017, arXiv 1706.08500, section 3).

Letters: n images, D features. FD = |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)) for means m and covariances C.

With C = A A^T, the trace of (C1 C2)^(1/2) is the sum of the singular values of A1^T A2. They are exact to the rounding
of A, while eigenvalues of C1 C2 lose half of the digits to the square root and may turn out complex. A is a pivoted
Cholesky factor, so a covariance may be singular.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solve_triangular
from scipy.linalg.lapack import dpstrf

from dalle_jax.arrays import Float, Int
from dalle_jax.evaluate.metrics.bootstrap import SEED, bootstrap_interval
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.distributions.moments import Moments, moments_of
from dalle_jax.evaluate.metrics.distributions.set_comparison import require_comparable_sets
from dalle_jax.evaluate.metrics.metric import Measurement, require_count


@dataclass(frozen=True)
class _Factor:
    """Covariance as A A^T: ``factor`` is A [D r] with its rows in the order ``pivots``, lower triangular at the top."""

    factor: Float[np.ndarray, "D r"]
    pivots: Int[np.ndarray, " D"]

    @property
    def unpivoted(self) -> Float[np.ndarray, "D r"]:
        out = np.empty_like(self.factor)
        out[self.pivots] = self.factor
        return out

    def whitened(self, deviations: Float[np.ndarray, "n D"]) -> Float[np.ndarray, "n r"]:
        """Return z with A z = deviation, for deviations in the span of A."""
        rank = self.factor.shape[1]
        top = deviations[:, self.pivots[:rank]].T
        return solve_triangular(self.factor[:rank], top, lower=True, check_finite=False).T


def _factorise(covariance: Float[np.ndarray, "D D"]) -> _Factor:
    lower, pivots, rank, info = dpstrf(covariance, lower=1)
    if info < 0:
        raise ValueError(f"covariance: dpstrf refused argument {-info}")
    return _Factor(np.tril(lower)[:, :rank], pivots - 1)


@dataclass(frozen=True)
class _Gap:
    """FD of two fitted Gaussians, and the decomposition U S V^T of A1^T A2 that it came from."""

    value: float
    step: Float[np.ndarray, " D"]
    factors: tuple[_Factor, _Factor]
    left: Float[np.ndarray, "r k"]
    singular: Float[np.ndarray, " k"]
    right: Float[np.ndarray, "s k"]


def frechet_distance(one: Moments, other: Moments) -> float:
    """Return FD of two sets of moments. Rounding may leave a value of about -1e-12 times the variance."""
    a, b = _factorise(one.covariance), _factorise(other.covariance)
    singular = np.linalg.svd(a.unpivoted.T @ b.unpivoted, compute_uv=False)
    return _value(one, other, singular)


def _value(one: Moments, other: Moments, singular: Float[np.ndarray, " k"]) -> float:
    step = one.mean - other.mean
    spread = np.trace(one.covariance) + np.trace(other.covariance) - 2 * singular.sum()
    return float(step @ step + spread)


def _gap(one: Moments, other: Moments) -> _Gap:
    a, b = _factorise(one.covariance), _factorise(other.covariance)
    left, singular, right = np.linalg.svd(a.unpivoted.T @ b.unpivoted, full_matrices=False)
    return _Gap(_value(one, other, singular), one.mean - other.mean, (a, b), left, singular, right.T)


def _effects(gap: _Gap, side: int, rows: Float[np.ndarray, "n D"], mean: Float[np.ndarray, " D"]) -> np.ndarray:
    """Return the first-order effect of each row of a side on FD.

    The gradient for C1 is I - T with the optimal transport T = A1^(-T) U S U^T A1^(-1) from the first Gaussian to the
    second; for m1 it is 2 (m1 - m2).
    """
    sign, vectors = (1, gap.left) if side == 0 else (-1, gap.right)
    effects = np.empty(len(rows))
    for start in range(0, len(rows), 2048):
        deviations = rows[start : start + 2048] - mean
        moved = gap.factors[side].whitened(deviations) @ (vectors * np.sqrt(gap.singular))  # [n k]
        effects[start : start + 2048] = (
            np.square(deviations).sum(axis=1) - np.square(moved).sum(axis=1) + 2 * sign * deviations @ gap.step
        )
    return effects


@dataclass(frozen=True)
class FrechetDistance:
    """FD of the generated images' features from the reference's, as FID; lower is better.

    ``fewest``: the smallest number of images on either side; None for the number of features plus 1. With fewer, a
    covariance has no full rank, and the bias is as large as the differences that FD should show.
    ``with_noise``: also compute the value of two samples of one distribution. It takes as long as the value itself.
    """

    fewest: int | None = None
    with_noise: bool = True

    def compare(self, reference: FeatureSet, generated: FeatureSet) -> tuple[Measurement, ...]:
        """Return the measurement "fd"."""
        require_comparable_sets("fd", reference, generated)
        fewest = self.fewest or generated.width + 1
        counted = [(side, one) for side, one in (("reference", reference), ("generated", generated)) if one.count_known]
        if any(one.count < max(fewest, 2) for _, one in counted):
            bias = _noise(reference, generated)
            why = f"a covariance of {generated.width} features needs more images than features"
            why += "" if bias is None else f", and so few give {bias:.4g} for two samples of one distribution"
            for side, one in counted:
                require_count("fd", side, one.count, max(fewest, 2), why)
        gap = _gap(reference.moments, generated.moments)
        effects = [
            _effects(gap, side, rows, one.moments.mean) if len(rows := one.rows().features) else None
            for side, one in enumerate((reference, generated))
        ]
        return (
            Measurement(
                name="fd",
                value=gap.value,
                count=generated.count,
                interval=bootstrap_interval(gap.value, effects),
                noise=_noise(reference, generated) if self.with_noise else None,
                reference_count=reference.count if reference.count_known else None,
                features=generated.features,
            ),
        )


def _noise(reference: FeatureSet, generated: FeatureSet) -> float | None:
    """Return FD after shuffling the rows of both sides together; None if the reference has no rows."""
    rows = [one.rows().features for one in (reference, generated)]
    if min(map(len, rows)) < 2:
        return None  # only its moments are known
    order = np.random.default_rng(SEED).permutation(sum(map(len, rows)))
    pooled = np.concatenate(rows)
    first, second = (moments_of(pooled[part]) for part in np.split(order, [len(rows[0])]))
    # FD of two samples falls as 1 / n: rescale if only some of the rows were kept.
    scale = (1 / reference.count + 1 / generated.count) / (1 / len(rows[0]) + 1 / len(rows[1]))
    return frechet_distance(first, second) * scale
