"""Protocol of metrics that accumulate over batches, devices and hosts, and the measurement that they give."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.parallel import hosts

Batch_contra = TypeVar("Batch_contra", contravariant=True)
Same = TypeVar("Same")


@dataclass(frozen=True)
class Measurement:
    """A measured number and the facts that another number needs to be comparable with it.

    - ``name``: its key in JSON, such as "fd".
    - ``count``, ``reference_count``: numbers of images; None for a reference that does not state it, or without one.
    - ``interval``: the 95 % bootstrap interval over images, with the model and its training fixed. Training again with
      another seed moves a figure more than that.
    - ``noise``: the value that two samples of one distribution give at these counts. It is the bias of FD, whose value
      falls as images are added.
    - ``features``: network, weights and preparation of the images; "" if the metric needs none.
    """

    name: str
    value: float
    count: int
    interval: tuple[float, float] | None = None
    noise: float | None = None
    reference_count: int | None = None
    features: str = ""

    def to_json(self) -> dict[str, object]:
        """Return the fields under their names, without those that were not measured."""
        out = {
            "value": self.value,
            "interval_95": None if self.interval is None else list(self.interval),
            "noise": self.noise,
            "count": self.count,
            "reference_count": self.reference_count,
            "features": self.features or None,
        }
        return {name: value for name, value in out.items() if value is not None}


@runtime_checkable
class Mergeable(Protocol):
    """An accumulated state that adds up over hosts."""

    def merge(self: Same, other: Same) -> None:
        """Add all batches of another one of the same options."""
        ...

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the accumulated state as arrays of numbers, for ``from_arrays``."""
        ...

    def from_arrays(self: Same, arrays: Mapping[str, np.ndarray]) -> Same:
        """Return one of the same options with the given state."""
        ...


@runtime_checkable
class Metric(Mergeable, Protocol[Batch_contra]):
    """Figures of a stream of batches. Equal batches give equal figures, in any order and on any number of hosts."""

    def update(self, batch: Batch_contra) -> None:
        """Add a batch. Raises ``UserError`` for arrays of a wrong shape or that are not finite."""
        ...

    def result(self) -> tuple[Measurement, ...]:
        """Compute the figures. Raises ``UserError`` for too few images."""
        ...


M = TypeVar("M", bound=Mergeable)


def merge_over_hosts(metric: M) -> M:
    """Return the metric of the batches of all processes, the same on each.

    Every process must call this at the same point.
    """
    packed = io.BytesIO()
    np.savez(packed, **metric.arrays())  # type: ignore[arg-type]
    states = [np.load(io.BytesIO(content), allow_pickle=False) for content in hosts.gather(packed.getvalue())]
    merged = metric.from_arrays(states[0])
    for state in states[1:]:
        merged.merge(metric.from_arrays(state))
    return merged


def require_comparable(one: Measurement, other: Measurement) -> None:
    """Raise ``UserError`` unless both are the same metric, of the same features and numbers of images.

    The numbers of images matter only to metrics that have a ``noise``, since this depends on them.
    """
    if one.name != other.name:
        raise UserError(f"figures: expected two of one metric, got {one.name} and {other.name}")
    require_same_features(one.name, one.features, other.features)
    counts = [(each.count, each.reference_count) for each in (one, other)]
    if one.noise is not None and counts[0] != counts[1]:
        raise UserError(
            f"{one.name}: expected the same numbers of images, since its value falls as images are added; "
            f"got {counts[0][0]} against a reference of {counts[0][1]} and {counts[1][0]} against {counts[1][1]}"
        )


def require_same_features(metric: str, one: str, other: str) -> None:
    """Raise ``UserError`` if features of two networks or preparations meet."""
    if one != other:
        raise UserError(f"{metric}: expected features of one network and preparation, got {one!r} and {other!r}")


def require_count(metric: str, side: str, count: int, fewest: int, why: str) -> None:
    """Raise ``UserError`` if there are fewer than ``fewest`` images; ``why`` says what needs them."""
    if count < fewest:
        raise UserError(f"{metric}: expected at least {fewest} {side} images, since {why}; got {count}")
