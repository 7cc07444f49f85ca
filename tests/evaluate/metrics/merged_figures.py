"""Run in each process of a run: print the figures of the images that all processes measured, as JSON.

The process measures every image whose number leaves the remainder of its index.
"""

import json

from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance
from dalle_jax.evaluate.metrics.distributions.kernel_distance import KernelDistance
from dalle_jax.evaluate.metrics.distributions.neighbours import NeighbourShares
from dalle_jax.evaluate.metrics.distributions.sliced_wasserstein import SlicedWasserstein
from dalle_jax.evaluate.metrics.metric import merge_over_hosts
from dalle_jax.parallel import hosts

import numpy as np  # isort: skip

WIDTH = 12
DISTANCES = (
    FrechetDistance(),
    KernelDistance(subsets=4, subset_size=100),
    SlicedWasserstein(directions=50, shuffles=2),
    NeighbourShares(),
)


def rows_of(side: str) -> np.ndarray:
    """Return all features of a side."""
    rng = np.random.default_rng(len(side))
    count, shift = (300, 0.0) if side == "reference" else (200, 0.4)
    return (rng.normal(size=(count, WIDTH)) * np.arange(1, WIDTH + 1) ** -0.5 + shift).astype(np.float32)


def sets_of(process: int, processes: int, batch: int) -> list[FeatureSet]:
    """Return both sides with the images of one process."""
    sets = []
    for side in ("reference", "generated"):
        rows = rows_of(side)
        own = np.arange(process, len(rows), processes)
        sets.append(FeatureSet("fake", WIDTH))
        for start in range(0, len(own), batch):
            part = own[start : start + batch]
            sets[-1].update(FeatureRows(part, rows[part]))
    return sets


def figures(sets: list[FeatureSet]) -> dict[str, list[float]]:
    """Return value, interval, count and noise of each figure of two sets."""
    measured = [one for distance in DISTANCES for one in distance.compare(*sets)]
    return {one.name: [one.value, *one.interval, one.count, one.noise or 0] for one in measured}


if __name__ == "__main__":
    hosts.join()
    merged = [merge_over_hosts(one) for one in sets_of(*hosts.process_index_and_count(), batch=17)]
    print(json.dumps(figures(merged)))
