"""Comparison of a reference and a generated set of images by several distances of the same features."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet, require_same_size
from dalle_jax.evaluate.metrics.metric import Measurement, require_count, require_same_features


def require_comparable_sets(metric: str, reference: FeatureSet, generated: FeatureSet) -> None:
    """Raise ``UserError`` if the images of two sets were prepared differently or have different sizes."""
    require_same_features(metric, reference.features, generated.features)
    require_same_size(metric, reference.image_size, generated.image_size)


def require_rows(metric: str, side: FeatureSet, fewest: int, why: str) -> Float[np.ndarray, "n D"]:
    """Return the kept rows of a side. Raises ``UserError`` for fewer than ``fewest`` or for statistics without rows."""
    if not side.count_known:
        raise UserError(f"{metric}: expected the features of each image, got a file of mean and covariance alone")
    rows = side.rows().features
    require_count(metric, "reference and generated", len(rows), fewest, why)
    return rows


@runtime_checkable
class FeatureDistance(Protocol):
    """A figure, or several, that compare two sets of features."""

    def compare(self, reference: FeatureSet, generated: FeatureSet) -> tuple[Measurement, ...]:
        """Return the measurements. Raises ``UserError`` if the sets are not comparable or have too few images."""
        ...


@dataclass(frozen=True)
class SidedRows:
    """Features of images of one side."""

    side: Literal["reference", "generated"]
    rows: FeatureRows


class SetComparison:
    """Metric over ``SidedRows``: the features are kept once for all ``distances``."""

    def __init__(self, reference: FeatureSet, generated: FeatureSet, distances: tuple[FeatureDistance, ...]):
        require_comparable_sets("comparison", reference, generated)
        self.reference, self.generated, self.distances = reference, generated, distances

    def update(self, batch: SidedRows) -> None:
        """Add images to a side."""
        (self.reference if batch.side == "reference" else self.generated).update(batch.rows)

    def merge(self, other: "SetComparison") -> None:
        """Add the images of both sides of another comparison."""
        self.reference.merge(other.reference)
        self.generated.merge(other.generated)

    def result(self) -> tuple[Measurement, ...]:
        """Compute all distances."""
        return tuple(one for distance in self.distances for one in distance.compare(self.reference, self.generated))

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the state of both sides as arrays."""
        sides = {"reference": self.reference, "generated": self.generated}
        return {f"{side}.{name}": array for side, one in sides.items() for name, array in one.arrays().items()}

    def from_arrays(self, arrays: Mapping[str, np.ndarray]) -> "SetComparison":
        """Return a comparison of the same distances with the given state."""

        def of(side: str, kind: FeatureSet) -> FeatureSet:
            prefix = f"{side}."
            return kind.from_arrays({name.removeprefix(prefix): arrays[name] for name in arrays if prefix in name})

        return SetComparison(of("reference", self.reference), of("generated", self.generated), self.distances)
