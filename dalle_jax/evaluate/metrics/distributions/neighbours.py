"""Precision, recall, density and coverage of generated images, by the nearest neighbours of their features.

Letters: n generated rows x, m reference rows y, D features. The ball of a row reaches to its k-th nearest neighbour of
its own side. Precision is the share of x in some ball of y, recall the share of y in some ball of x (Kynkäänniemi et
al. 2019, arXiv 1904.06991). Density is the mean number of balls of y around an x, divided by k; coverage is the share
of balls of y that hold an x (Naeem et al. 2020, arXiv 2002.09797). Distances are computed in blocks.
"""

from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.bootstrap import bootstrap_interval
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet
from dalle_jax.evaluate.metrics.distributions.set_comparison import require_comparable_sets, require_rows
from dalle_jax.evaluate.metrics.metric import Measurement

BLOCK = 4_000_000
"""Distances that are computed at once: 32 MB in float64, for any number of rows."""


def squared_distances(x: Float[np.ndarray, "a D"], y: Float[np.ndarray, "b D"]) -> Float[np.ndarray, "a b"]:
    """Return |x - y|^2 of each pair of rows, at least 0."""
    out = x @ y.T
    out *= -2
    out += np.square(x).sum(axis=1)[:, None]
    out += np.square(y).sum(axis=1)
    return np.maximum(out, 0, out=out)


def row_blocks(rows: int, columns: int) -> list[slice]:
    """Return slices that together hold all of ``rows``, each with at most ``BLOCK`` distances to ``columns`` rows."""
    size = max(1, BLOCK // max(1, columns))
    return [slice(start, min(start + size, rows)) for start in range(0, rows, size)]


def squared_radii(rows: Float[np.ndarray, "n D"], ks: tuple[int, ...]) -> Float[np.ndarray, "k n"]:
    """Return the squared distance of each row to its k-th nearest other row, for each k."""
    out = np.empty((len(ks), len(rows)))
    for block in row_blocks(len(rows), len(rows)):
        part = squared_distances(rows[block], rows)
        own = np.arange(len(part))
        part[own, block.start + own] = 0  # exactly, so that a row is its own nearest neighbour
        part.partition(ks, axis=1)
        out[:, block] = part[:, ks].T
    return out


@dataclass(frozen=True)
class NeighbourCounts:
    """Memberships of rows in balls of the other side.

    - ``near_balls``, ``wide_balls``: for each x, the number of balls of y around it, with precision's and density's k.
    - ``in_ball_of_x``: for each y, 1 if some ball of x holds it, with precision's k.
    - ``covered``: for each y, 1 if its ball holds some x, with density's k.
    """

    near_balls: Float[np.ndarray, " n"]
    wide_balls: Float[np.ndarray, " n"]
    in_ball_of_x: Float[np.ndarray, " m"]
    covered: Float[np.ndarray, " m"]


def count_neighbours(
    x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "m D"], precision_k: int, density_k: int
) -> NeighbourCounts:
    """Count memberships. Its memory is that of a block of distances, its time grows as (n + m)^2 D."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    (x_radii,), (near, wide) = squared_radii(x, (precision_k,)), squared_radii(y, (precision_k, density_k))
    near_balls, wide_balls = np.zeros(len(x)), np.zeros(len(x))
    inside, covered = np.zeros(len(y), bool), np.zeros(len(y), bool)
    for block in row_blocks(len(x), len(y)):
        part = squared_distances(x[block], y)  # [a m]
        held = part <= wide
        wide_balls[block] = held.sum(axis=1)
        covered |= held.any(axis=0)
        near_balls[block] = (part <= near).sum(axis=1)
        inside |= (part <= x_radii[block, None]).any(axis=0)
    return NeighbourCounts(near_balls, wide_balls, inside.astype(np.float64), covered.astype(np.float64))


@dataclass(frozen=True)
class NeighbourShares:
    """Precision and recall with k = 3 neighbours, density and coverage with 5: the papers' defaults.

    All but density are shares; higher is better. Intervals resample the images that are judged and keep the balls.
    Shares depend on the numbers of images: balls shrink as images are added.
    """

    precision_k: int = 3
    density_k: int = 5
    fewest: int = 100

    def compare(self, reference: FeatureSet, generated: FeatureSet) -> tuple[Measurement, ...]:
        """Return the measurements "precision", "recall", "density" and "coverage"."""
        require_comparable_sets("precision", reference, generated)
        why = f"balls reach to the neighbour number {max(self.precision_k, self.density_k)}"
        fewest = max(self.fewest, self.precision_k + 1, self.density_k + 1)
        y, x = (require_rows("precision", side, fewest, why) for side in (reference, generated))
        if min(self.precision_k, self.density_k) < 1:
            raise UserError(f"neighbours: expected at least 1, got {self.precision_k} and {self.density_k}")
        found = count_neighbours(x, y, self.precision_k, self.density_k)
        figures = {
            "precision": (found.near_balls > 0).astype(np.float64),
            "recall": found.in_ball_of_x,
            "density": found.wide_balls / self.density_k,
            "coverage": found.covered,
        }
        return tuple(
            Measurement(
                name=name,
                value=float(each.mean()),
                count=len(x),
                interval=bootstrap_interval(float(each.mean()), [each]),
                reference_count=len(y),
                features=generated.features,
            )
            for name, each in figures.items()
        )
