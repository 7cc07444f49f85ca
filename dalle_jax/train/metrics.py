"""Metrics as (sum, weight) pairs, which merge by adding and are divided once, when they are written."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dalle_jax.arrays import Array
from dalle_jax.train.task import MetricSums


def merge(first: MetricSums, second: MetricSums) -> MetricSums:
    """Return the metrics of both. Sums and weights of a name that is in both are added."""
    merged = dict(first)
    for name, (total, weight) in second.items():
        if name in merged:
            total, weight = merged[name][0] + total, merged[name][1] + weight
        merged[name] = (total, weight)
    return merged


def as_float32(sums: Mapping[str, tuple[ArrayLike, ArrayLike]]) -> MetricSums:
    """Convert sums and weights to float32 scalars; a task may return Python numbers."""
    return {name: (_scalar(total), _scalar(weight)) for name, (total, weight) in sums.items()}


def where(keep: Array, sums: MetricSums) -> MetricSums:
    """Return the sums if ``keep`` is True, else zero sums with zero weight."""
    return jax.tree.map(lambda value: jnp.where(keep, value, 0.0), sums)


def divide(sums: MetricSums) -> dict[str, float]:
    """Return each metric's sum divided by its weight; a metric of zero weight is left out.

    All values are read from the device at once.
    """
    host = jax.device_get(dict(sums))
    return {name: float(np.float64(total) / weight) for name, (total, weight) in host.items() if weight != 0}


def _scalar(value: ArrayLike) -> Array:
    return jnp.asarray(value, jnp.float32).reshape(())
