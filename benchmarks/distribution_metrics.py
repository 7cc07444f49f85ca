"""Time and memory of the metrics that compare distributions, for features that are known already.

    python benchmarks/distribution_metrics.py [--images 10000] [--width 1280]

Features of falling variance are drawn at random and added to both sides in batches, as an extractor's would be. The
script prints JSON: seconds and CPU seconds of each part, and the peak memory in MiB before and after it.
"""

import argparse
import json
import os
import platform
import resource
import time

import numpy as np

from dalle_jax.evaluate.metrics.distributions.feature_set import FeatureRows, FeatureSet
from dalle_jax.evaluate.metrics.distributions.frechet_distance import FrechetDistance
from dalle_jax.evaluate.metrics.distributions.kernel_distance import KernelDistance
from dalle_jax.evaluate.metrics.distributions.neighbours import NeighbourShares
from dalle_jax.evaluate.metrics.distributions.sliced_wasserstein import SlicedWasserstein

BATCH = 64


def peak_mib() -> float:
    """Return the largest memory that the process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def filled(count: int, width: int, seed: int) -> FeatureSet:
    """Return a set of random features of a ReLU."""
    rng = np.random.default_rng(seed)
    scales = np.arange(1, width + 1) ** -0.5
    found = FeatureSet("random", width)
    for start in range(0, count, BATCH):
        numbers = np.arange(start, min(start + BATCH, count))
        rows = rng.normal(size=(len(numbers), width)) * scales + 0.1 * seed * scales
        found.update(FeatureRows(numbers, np.maximum(rows, 0).astype(np.float32)))
    return found


def main() -> None:
    """Compare two sets of random features, and print CPU seconds and peak memory in MiB of each metric."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--width", type=int, default=1280)
    args = parser.parse_args()
    parts: dict[str, dict[str, object]] = {}
    sets: list[FeatureSet] = []
    steps = {
        "add": lambda: sets.extend(filled(args.images, args.width, seed) for seed in (0, 1)),
        "fd": lambda: FrechetDistance().compare(*sets),
        "kid": lambda: KernelDistance().compare(*sets),
        "mind": lambda: SlicedWasserstein().compare(*sets),
        "precision, recall, density, coverage": lambda: NeighbourShares().compare(*sets),
    }
    for name, step in steps.items():
        before, start, cpu = peak_mib(), time.perf_counter(), time.process_time()
        found = step()
        seconds, spent = time.perf_counter() - start, time.process_time() - cpu
        parts[name] = {"seconds": round(seconds, 1), "cpu_seconds": round(spent, 1), "peak_mib_before": round(before),
                       "peak_mib_after": round(peak_mib()),
                       "figures": {one.name: one.value for one in found or ()}}  # fmt: skip
        print(json.dumps({name: parts[name]}), flush=True)
    total = sum(float(str(part["seconds"])) for part in parts.values())
    print(json.dumps({"images": args.images, "width": args.width, "seconds": round(total, 1),
                      "cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}))  # fmt: skip


if __name__ == "__main__":
    main()
