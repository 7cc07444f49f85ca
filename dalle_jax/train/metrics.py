"""MetricSums: figures as (sum, weight), which merge by adding and are divided once, when they are written."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.train.task import MetricSums


def merge(first: MetricSums, second: MetricSums) -> MetricSums:
    """Both together; a name that both have is added up."""
    merged = dict(first)
    for name, (total, weight) in second.items():
        if name in merged:
            total, weight = merged[name][0] + total, merged[name][1] + weight
        merged[name] = (total, weight)
    return merged


def as_float32(sums: Mapping[str, Any]) -> MetricSums:
    """The same with both parts as float32 scalars, whatever a task gave."""
    return {name: (_scalar(total), _scalar(weight)) for name, (total, weight) in sums.items()}


def where(keep: Any, sums: MetricSums) -> MetricSums:
    """The sums, or nothing with no weight."""
    return jax.tree.map(lambda value: jnp.where(keep, value, 0.0), sums)


def divide(sums: Mapping[str, Any]) -> dict[str, float]:
    """The figures: read from the device all at once. A name without weight is left out."""
    host = jax.device_get(dict(sums))
    return {name: float(np.float64(total) / weight) for name, (total, weight) in host.items() if weight != 0}


def _scalar(value: Any) -> Any:
    return jnp.asarray(value, jnp.float32).reshape(())
