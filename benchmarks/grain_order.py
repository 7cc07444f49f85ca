"""Examples per CPU second of the loader and of grain's MapDataset: shuffle, mixture, choice of a caption, collation.

    python benchmarks/grain_order.py [--core 0] [--rounds 9]

Both sides read the same examples from memory in one thread, so that only the work around the source is measured. Both
use grain's ``index_shuffle`` with a new seed for each epoch. grain is measured with random access to batches and as an
iterator. The sides run in turn; the result is the median over the rounds, with the ratio to the loader within a round.
"""

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator

import grain
import numpy as np
from harness import cpu_model

from dalle_jax.data.loader import Loader
from dalle_jax.data.mixture import MixedSources
from dalle_jax.data.source import Example, Source

BATCH, BATCHES, SEED = 64, 100, 0
WEIGHTS = (0.75, 0.25)


class Memory:
    """A source of examples in memory: 16 px images with four captions each."""

    def __init__(self, name: str, count: int):
        self._name, self._count = name, count
        self._image = np.zeros((16, 16, 3), np.uint8)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Example:
        captions = [f"caption {letter} of {index}" for letter in "abcd"]
        return Example(key=f"{self._name}/{index}", image=self._image, captions=captions)

    def fingerprint(self) -> str:
        """Return the name."""
        return self._name


SOURCES: tuple[Source, ...] = (Memory("large", 100_000), Memory("small", 1_000))


def choose(example: Example, rng: np.random.Generator) -> dict[str, object]:
    """Return an example with one of its captions, as the loader does."""
    captions = example["captions"]
    group = hash(tuple(sorted(captions)))
    caption = captions[int(rng.integers(len(captions)))]
    return {"image": example["image"], "caption": caption, "key": example["key"], "caption_group": group}


def collate(rows: list[dict[str, object]]) -> dict[str, list[object]]:
    """Return lists by name."""
    return {name: [row[name] for row in rows] for name in rows[0]}


def grain_batches(sources: tuple[Source, ...]) -> grain.MapDataset:
    """Return grain's counterpart of the loader: any batch by its step, without end."""
    parts = [
        grain.MapDataset.source(source).seed(SEED + part).shuffle().repeat() for part, source in enumerate(sources)
    ]
    mixed = grain.MapDataset.mix(parts, WEIGHTS) if len(parts) > 1 else parts[0]
    return mixed.seed(SEED).random_map(choose).batch(BATCH, batch_fn=collate)


def sides(sources: tuple[Source, ...]) -> dict[str, Callable[[int], object]]:
    """Return a function from a step to its batch for each side."""
    loader = Loader(MixedSources(sources, WEIGHTS) if len(sources) > 1 else sources[0], None, BATCH, SEED)
    dataset = grain_batches(sources)
    iterator: Iterator[object] = iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=0)))
    return {
        "loader": loader.batch,
        "grain, random access": dataset.__getitem__,
        "grain, iterator": lambda step: next(iterator),
    }


def measure(sources: tuple[Source, ...], rounds: int) -> dict[str, dict[str, float]]:
    """Return examples per CPU second of each side, and its ratio to the loader."""
    rates: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, batch in sides(sources).items():
            started = time.process_time()
            for step in range(turn * BATCHES, (turn + 1) * BATCHES):
                batch(step)
            if turn:  # the first round warms up
                rates.setdefault(name, []).append(BATCH * BATCHES / (time.process_time() - started))
    return {
        name: {
            "examples_per_cpu_second": round(statistics.median(found)),
            "ratio": round(statistics.median(one / base for one, base in zip(found, rates["loader"], strict=True)), 2),
        }
        for name, found in rates.items()
    }


def main() -> None:
    """Print the result as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    os.sched_setaffinity(0, {args.core})
    content = {
        "cpu": cpu_model(),
        "python": platform.python_version(),
        "grain": grain.__version__,
        "one source": measure(SOURCES[:1], args.rounds),
        "mixture of two": measure(SOURCES, args.rounds),
    }
    print(json.dumps(content, indent=1))


if __name__ == "__main__":
    main()
