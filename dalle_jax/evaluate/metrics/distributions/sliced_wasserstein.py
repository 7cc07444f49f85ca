"""MIND: the Monge Inception Distance, a sliced Wasserstein distance of features (arXiv 2605.06797).

Letters: n images of either side, D features, L directions. MIND = 3 D mean_u W2^2(u x, u y) over random unit vectors u.
The factor D makes a shift of the mean count in full: it alone gives 3 |m1 - m2|^2, where FD gives |m1 - m2|^2. Along
one direction W2^2 is the mean squared difference of the sorted projections. torch-fidelity (after 0.4) and the paper
take equal numbers of both sides; here quantile functions of unequal numbers are compared exactly as well.
"""

from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Bool, Float, Int
from dalle_jax.evaluate.metrics.bootstrap import SEED, bootstrap_interval
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.distributions.set_comparison import require_comparable_sets, require_rows
from dalle_jax.evaluate.metrics.metric import Measurement

AT_ONCE = 64
"""Directions at once: their projections of 40,000 rows take 20 MiB."""


def random_directions(count: int, width: int, seed: int) -> Float[np.ndarray, "L D"]:
    """Return unit vectors of uniformly random direction."""
    rows = np.random.default_rng(seed).normal(size=(count, width))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@dataclass(frozen=True)
class _Coupling:
    """The monotone coupling of n and m equal masses: pieces of ``mass`` that go from rank ``first`` to ``second``."""

    first: Int[np.ndarray, " p"]
    second: Int[np.ndarray, " p"]
    mass: Float[np.ndarray, " p"]


def _coupling(n: int, m: int) -> _Coupling:
    if n == m:
        ranks = np.arange(n)
        return _Coupling(ranks, ranks, np.full(n, 1 / n))
    # Both cumulative distributions step at multiples of 1 / n and 1 / m: count in units of 1 / (n m).
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    mass = np.diff(ends, prepend=0)
    return _Coupling((ends - 1) // m, (ends - 1) // n, mass / (n * m))


def _costs(x: Float[np.ndarray, "L n"], y: Float[np.ndarray, "L m"], coupling: _Coupling) -> Float[np.ndarray, " L"]:
    """Return W2^2 of each row of sorted projections."""
    if len(coupling.mass) == x.shape[1] == y.shape[1]:
        return np.square(x - y).mean(axis=1)
    return np.square(x[:, coupling.first] - y[:, coupling.second]) @ coupling.mass


def _potential(own: Float[np.ndarray, "L n"], target: Float[np.ndarray, "L n"]) -> Float[np.ndarray, "L n"]:
    """Return the Kantorovich potential at the sorted points, the first-order effect of mass there on W2^2.

    Its derivative is 2 (x - T(x)) for the transport T, here the mean ``target`` of each point.
    """
    slope = 2 * (own - target)
    steps = np.diff(own, axis=1) * (slope[:, 1:] + slope[:, :-1]) / 2
    out = np.zeros_like(own)
    np.cumsum(steps, axis=1, out=out[:, 1:])
    return out - out.mean(axis=1, keepdims=True)


def _targets(values: Float[np.ndarray, "L m"], own: Int[np.ndarray, " p"], other: Int[np.ndarray, " p"],
             mass: Float[np.ndarray, " p"], count: int) -> Float[np.ndarray, "L n"]:  # fmt: skip
    """Return the mean of the values that the mass of each own rank is coupled with."""
    starts = np.searchsorted(own, np.arange(count))
    return np.add.reduceat(values[:, other] * mass, starts, axis=1) * count


@dataclass(frozen=True)
class SlicedWasserstein:
    """MIND of two sets of features; lower is better, and 1,000 images are informative.

    ``shuffles``: the rows of both sides are shuffled together so many times for the value that two samples of one
    distribution give; ``noise`` is their mean. 0 leaves it out.
    """

    directions: int = 1000
    shuffles: int = 10
    seed: int = SEED
    fewest: int = 100

    def compare(self, reference: FeatureSet, generated: FeatureSet) -> tuple[Measurement, ...]:
        """Return the measurement "mind"."""
        require_comparable_sets("mind", reference, generated)
        why = "the noise of a sorted projection falls as 1 / n"
        y, x = (require_rows("mind", side, self.fewest, why) for side in (reference, generated))
        found = sliced_distance(x, y, random_directions(self.directions, generated.width, self.seed), self.shuffles)
        return (
            Measurement(
                name="mind",
                value=found.value,
                count=len(x),
                interval=bootstrap_interval(found.value, found.effects),
                noise=float(found.shuffled.mean()) if self.shuffles else None,
                reference_count=len(y),
                features=generated.features,
            ),
        )


@dataclass(frozen=True)
class SlicedDistance:
    """MIND, the first-order effect of each row on it, and its values for shuffled rows."""

    value: float
    effects: tuple[Float[np.ndarray, " n"], Float[np.ndarray, " m"]]
    shuffled: Float[np.ndarray, " s"]


def sliced_distance(
    x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"], directions: Float[np.ndarray, "L D"], shuffles: int = 0
) -> SlicedDistance:
    """Return MIND along the given unit vectors. Projections are sorted once, for the value and for all shuffles."""
    n, m = len(x), len(y)
    coupling = _coupling(n, m)
    masks = _shuffled_masks(n, m, shuffles)
    value, effects = 0.0, (np.zeros(n), np.zeros(m))
    shuffled = np.zeros(shuffles)
    joined = np.concatenate([x, y])
    factor = 3 * x.shape[1] / len(directions)
    for start in range(0, len(directions), AT_ONCE):
        projections = directions[start : start + AT_ONCE].astype(joined.dtype) @ joined.T  # [L n+m]
        projections = projections.astype(np.float64)
        order = np.argsort(projections, axis=1)
        values = np.take_along_axis(projections, order, axis=1)
        first = order < n
        a, b = _split(values, first, n)
        value += factor * _costs(a, b, coupling).sum()
        to_y = _targets(b, coupling.first, coupling.second, coupling.mass, n)
        to_x = _targets(a, coupling.second, coupling.first, coupling.mass, m)
        np.add.at(effects[0], order[first], factor * _potential(a, to_y).ravel())
        np.add.at(effects[1], order[~first] - n, factor * _potential(b, to_x).ravel())
        for index, mask in enumerate(masks):
            shuffled[index] += factor * _costs(*_split(values, mask[order], n), coupling).sum()
    return SlicedDistance(float(value), effects, shuffled)


def _split(
    values: Float[np.ndarray, "L k"], first: Bool[np.ndarray, "L k"], n: int
) -> tuple[Float[np.ndarray, "L n"], Float[np.ndarray, "L m"]]:
    """Split sorted values of both sides into the sorted values of each; every row of ``first`` has n True."""
    return values[first].reshape(len(values), n), values[~first].reshape(len(values), -1)


def _shuffled_masks(n: int, m: int, shuffles: int) -> list[Bool[np.ndarray, " k"]]:
    rng = np.random.default_rng(SEED)
    return [rng.permutation(n + m) < n for _ in range(shuffles)]
