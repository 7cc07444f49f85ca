"""Inception Score: how certain and how varied the classes of generated images are (arXiv 1606.03498, section 4).

Letters: n images, C classes, s splits. IS = exp(mean_i KL(p_i | q)) for the class probabilities p_i of an image and
their mean q, averaged over splits. Only sums are kept, of each split.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

from dalle_jax.arrays import Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import priorities
from dalle_jax.evaluate.metrics.metric import Measurement, require_count, require_same_features

INCEPTION = "inception-v3"
"""The label of FID's network in the names of features."""


@dataclass(frozen=True)
class ClassRows:
    """Class probabilities of some images, whose ``numbers`` identify them in their source."""

    numbers: Int[np.ndarray, " n"]
    probabilities: Float[np.ndarray, "n C"]


class InceptionScore:
    """IS; higher is better, from 1 to the number of classes. It compares with no reference and is blind to captions.

    Images are divided over ``splits`` by a hash of their numbers, so the figure depends neither on the order of batches
    nor on the number of hosts. The interval is Student's over the splits. ``fewest`` is the number of classes by
    default: the mean over fewer images cannot hold all classes, which lowers IS. The measurement is named ``is`` only
    for FID's InceptionV3, and after the network for another classifier, whose values are not comparable with it.
    """

    def __init__(self, features: str, classes: int, splits: int = 10, fewest: int | None = None):
        self.features, self.classes, self.splits, self.fewest = features, classes, splits, fewest
        network = features.partition(" ")[0]
        self.name = "is" if network in ("", INCEPTION) else f"is_of_{network}"
        self._counts = np.zeros(splits, np.int64)
        self._sums = np.zeros((splits, classes))
        self._negative_entropy = np.zeros(splits)

    def update(self, batch: ClassRows) -> None:
        """Add images. Raises ``UserError`` for rows that are not probabilities of the classes."""
        rows = batch.probabilities.astype(np.float64)
        if rows.shape != (len(batch.numbers), self.classes):
            raise UserError(
                f"is: expected probabilities [{len(batch.numbers)}, {self.classes}], got {list(rows.shape)}"
            )
        bad = np.flatnonzero(~(np.abs(rows.sum(axis=1) - 1) < 1e-3) | (rows < 0).any(axis=1))
        if len(bad):
            raise UserError(
                f"is: expected probabilities that sum to 1, got a sum of {rows[bad[0]].sum():.4g} "
                f"for image number {batch.numbers[bad[0]]}"
            )
        split = priorities(batch.numbers).astype(np.uint64) % np.uint64(self.splits)
        negative_entropy = (rows * np.log(np.where(rows > 0, rows, 1))).sum(axis=1)
        np.add.at(self._counts, split, 1)
        np.add.at(self._sums, split, rows)
        np.add.at(self._negative_entropy, split, negative_entropy)

    def merge(self, other: "InceptionScore") -> None:
        """Add the sums of another score of the same classifier."""
        require_same_features("is", self.features, other.features)
        self._counts = self._counts + other._counts
        self._sums = self._sums + other._sums
        self._negative_entropy = self._negative_entropy + other._negative_entropy

    def result(self) -> tuple[Measurement, ...]:
        """Return the measurement, which has the metric's ``name``."""
        count = int(self._counts.sum())
        fewest = max(self.fewest or self.classes, 2 * self.splits)
        why = f"the mean of fewer cannot hold all of {self.classes} classes, which lowers the score"
        require_count(self.name, "generated", count, fewest, why)
        if not self._counts.all():
            raise UserError(f"is: expected images in each of {self.splits} splits, got none in one; use fewer splits")
        q = self._sums / self._counts[:, None]
        entropy = -(q * np.log(np.where(q > 0, q, 1))).sum(axis=1)
        scores = np.exp(self._negative_entropy / self._counts + entropy)
        value = float(scores.mean())
        interval = None
        if self.splits > 1:
            half = float(student.ppf(0.975, self.splits - 1) * scores.std(ddof=1) / np.sqrt(self.splits))
            interval = (value - half, value + half)
        return (Measurement(self.name, value, count, interval, features=self.features),)

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the sums as arrays."""
        return {"counts": self._counts, "sums": self._sums, "negative_entropy": self._negative_entropy}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "InceptionScore":
        """Return a score of the same options with the given sums."""
        out = InceptionScore(self.features, self.classes, self.splits, self.fewest)
        out._counts, out._sums = arrays["counts"], arrays["sums"]
        out._negative_entropy = arrays["negative_entropy"]
        return out
