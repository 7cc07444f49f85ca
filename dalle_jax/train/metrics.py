"""Metrics as (sum, weight) pairs, which merge by adding and are divided once, when they are written.

A histogram is a sum with an axis. It is added up like any other, so that its usage is that of all steps since the last
line: one batch cannot use a codebook that has more codes than the batch has places.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from dalle_jax.arrays import Array, Float
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
    """Convert sums and weights to float32; a task may return Python numbers."""
    return {name: (_sum(total), _sum(weight).reshape(())) for name, (total, weight) in sums.items()}


def where(keep: Array, sums: MetricSums) -> MetricSums:
    """Return the sums if ``keep`` is True, else zero sums with zero weight."""
    return jax.tree.map(lambda value: jnp.where(keep, value, 0.0), sums)


def divide(sums: MetricSums) -> dict[str, float]:
    """Return each metric's sum divided by its weight, and NAME/usage and NAME/perplexity of each histogram.

    All values are read from the device at once. A metric of zero weight is left out.
    """
    host = jax.device_get(dict(sums))
    values: dict[str, float] = {}
    for name, (total, weight) in host.items():
        if weight != 0 and np.ndim(total):
            values[f"{name}/usage"], values[f"{name}/perplexity"] = usage(total), perplexity(total)
        elif weight != 0:
            values[name] = float(np.float64(total) / weight)
    return values


def usage(histogram: Float[np.ndarray, " K"]) -> float:
    """Return the number of outcomes that occur, as a share of those that could: K, or the number of trials if less."""
    return float((histogram > 0).sum() / min(histogram.size, max(histogram.sum(dtype=np.float64), 1.0)))


def perplexity(histogram: Float[np.ndarray, " K"]) -> float:
    """Compute exp(entropy) of the frequencies, from 1 (a single outcome) to K (all equally often)."""
    share = histogram[histogram > 0].astype(np.float64) / max(histogram.sum(dtype=np.float64), 1e-20)
    return float(np.exp(-(share * np.log(share)).sum()))


def _sum(value: ArrayLike) -> Array:
    """Return a scalar, or a histogram, in float32."""
    array = jnp.asarray(value, jnp.float32)
    return array.reshape(()) if array.size == 1 else array
