"""Features of one set of images: their moments, and the rows that metrics of neighbours and orders need.

Moments are of all images. Rows are kept of at most ``most_rows`` images, chosen by a hash of the image's number, so
memory stays bounded and the choice depends neither on the order of the batches nor on the number of hosts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from dalle_jax.arrays import Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.moments import Moments, moments_of, no_moments
from dalle_jax.evaluate.metrics.metric import require_same_features

MOST_ROWS = 20_000
"""Rows kept by default: 98 MiB at 1,280 features."""


@dataclass(frozen=True)
class FeatureRows:
    """Feature vectors of some images, and the number of each image in its source, which identifies it."""

    numbers: Int[np.ndarray, " n"]
    features: Float[np.ndarray, "n D"]

    def __len__(self) -> int:
        return len(self.numbers)


class FeatureSet:
    """Accumulated features of one set of images.

    - ``features``: the extractor's name, of network, weights and preparation. Sets of different names never meet.
    - ``image_size``: height and width of the images before their preparation; None if unknown.
    - ``count_known``: False for statistics of a file that does not state its number of images.
    """

    count_known = True

    def __init__(
        self, features: str, width: int, image_size: tuple[int, int] | None = None, most_rows: int = MOST_ROWS
    ):
        self.features, self.width, self.image_size, self.most_rows = features, width, image_size, most_rows
        self.moments = no_moments(width)
        self._numbers = np.zeros(0, np.int64)
        self._kept = [FeatureRows(np.zeros(0, np.int64), np.zeros((0, width), np.float32))]

    @classmethod
    def of_statistics(
        cls, features: str, mean: Float[np.ndarray, " D"], covariance: Float[np.ndarray, "D D"]
    ) -> "FeatureSet":
        """Return a set of unknown number of images, without rows, from its mean and covariance."""
        out = cls(features, len(mean))
        out.count_known = False
        out.moments = Moments(2, mean.astype(np.float64), covariance.astype(np.float64))  # divisor n - 1 = 1
        return out

    @property
    def count(self) -> int:
        """Return the number of images."""
        return self.moments.count

    def update(self, batch: FeatureRows) -> None:
        """Add images. Raises ``UserError`` for a wrong width, a value that is not finite, or an image that came before.

        Leave out the rows with which a batch is padded.
        """
        features = np.asarray(batch.features, np.float32)
        if features.shape != (len(batch), self.width):
            raise UserError(
                f"features: expected [{len(batch)}, {self.width}] of {self.features}, got {list(features.shape)}"
            )
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if len(bad):
            raise UserError(
                f"features: expected finite numbers, got NaN or infinity for {len(bad)} of {len(batch)} images, "
                f"the first of them number {batch.numbers[bad[0]]}"
            )
        if not len(batch):
            return
        self._add(np.asarray(batch.numbers, np.int64), moments_of(features))
        self._keep([FeatureRows(np.asarray(batch.numbers, np.int64), features)])

    def merge(self, other: "FeatureSet") -> None:
        """Add the images of another set. Raises ``UserError`` if it has other features or an image of this set."""
        require_same_features("merge", self.features, other.features)
        require_same_size("merge", self.image_size, other.image_size)
        if not (self.count_known and other.count_known):
            raise UserError("merge: expected sets of known numbers of images, got statistics that do not state theirs")
        self._add(other._numbers, other.moments)
        self.image_size = self.image_size or other.image_size
        self._keep(other._kept)

    def rows(self) -> FeatureRows:
        """Return the kept rows in the order of their numbers."""
        self._compact()
        return self._kept[0]

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state as arrays."""
        rows = self.rows()
        return {
            "count": np.asarray(self.count, np.int64),
            "image_size": np.asarray(self.image_size or (0, 0), np.int64),
            "mean": self.moments.mean,
            "scatter": self.moments.scatter,
            "numbers": self._numbers,
            "row_numbers": rows.numbers,
            "rows": rows.features,
        }

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "FeatureSet":
        """Return a set of the same features with the given state."""
        height, width = arrays["image_size"].tolist()
        out = FeatureSet(self.features, self.width, (height, width) if height else None, self.most_rows)
        out.moments = Moments(int(arrays["count"]), arrays["mean"], arrays["scatter"])
        out._numbers = arrays["numbers"]
        out._kept = [FeatureRows(arrays["row_numbers"], arrays["rows"])]
        return out

    def _add(self, numbers: Int[np.ndarray, " n"], moments: Moments) -> None:
        joined = np.concatenate([self._numbers, numbers])
        unique, times = np.unique(joined, return_counts=True)
        if len(unique) < len(joined):
            raise UserError(f"images: expected each once, got number {unique[times > 1][0]} more than once")
        self._numbers = unique
        self.moments = self.moments + moments

    def _keep(self, added: list[FeatureRows]) -> None:
        self._kept = self._kept + added
        if sum(map(len, self._kept)) >= 1.25 * self.most_rows:
            self._compact()

    def _compact(self) -> None:
        """Keep the rows of smallest hash, in one array ordered by number."""
        numbers = np.concatenate([one.numbers for one in self._kept])
        chosen = np.sort(np.argsort(priorities(numbers), kind="stable")[: self.most_rows])
        chosen = chosen[np.argsort(numbers[chosen], kind="stable")]
        features = np.concatenate([one.features for one in self._kept])[chosen]
        self._kept = [FeatureRows(numbers[chosen], features)]


def priorities(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " n"]:
    """Return a hash of each number (the finaliser of SplitMix64), by which rows are chosen."""
    z = numbers.astype(np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (z ^ (z >> np.uint64(31))).astype(np.int64)


def require_same_size(metric: str, one: tuple[int, int] | None, other: tuple[int, int] | None) -> None:
    """Raise ``UserError`` if the images of two sets have different sizes. Unknown sizes are not compared."""
    if one is not None and other is not None and one != other:
        raise UserError(
            f"{metric}: expected images of one size, got {one[0]}x{one[1]} and {other[0]}x{other[1]}; "
            "a small image that was enlarged is blurred, and features see that"
        )
