"""Checks that two sets of features can be compared, and the protocol of their distances."""

from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.config.errors import UserError
from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureSet, require_same_size
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
