"""Shuffled batches of a data source by step number: each example once per epoch, with random access to any step.

A batch is a pure function of (source, seed, step). A resumed run therefore continues with the same examples, for any
number of hosts and threads. Batches continue across the end of an epoch. The top of ``data/examples/index.py`` defines
an epoch for sources with bad records.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NotRequired, TypedDict, cast

import numpy as np
from grain.experimental import index_shuffle

from dalle_jax.arrays import CANDIDATE, COUNTED, ExampleBatch
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples import record_stats
from dalle_jax.data.examples.record_stats import RecordStats
from dalle_jax.data.mixture import Interleaving, MixedSources
from dalle_jax.data.precomputed.manifest import AnyManifest
from dalle_jax.data.seeded_hash import draw
from dalle_jax.data.source import EpochSource, Example, Source
from dalle_jax.data.sources.precomputed import shared_manifest

VERSION = 3
"""Increase this when the same sources, seed and batch size give different batches."""


ARRAYS = ("image", "rejected", "codes", "condition", "image_vector")
"""Names of the arrays of an example that its row takes over."""


class Row(TypedDict):
    """A row of an ``ExampleBatch``: an example with one of its captions."""

    key: str
    caption: str
    caption_group: int
    image: NotRequired[np.ndarray]
    rejected: NotRequired[np.ndarray]
    codes: NotRequired[np.ndarray]
    condition: NotRequired[np.ndarray]
    image_vector: NotRequired[np.ndarray]
    text_vector: NotRequired[np.ndarray]
    text_states: NotRequired[np.ndarray]


class Loader:
    """Training batches of ``source`` and the fixed evaluation batches of ``evaluation_source``.

    - The choice among the captions of an example depends on (seed, epoch, index).
    - ``caption_group`` of a batch is a 31-bit hash of all captions of an example, in any order. CLIP's loss does not
      treat images of the same group as negatives.
    - ``workers`` threads load the examples of a batch. With 0 the caller's thread loads them.
    - ``records`` counts the bad records.
    """

    def __init__(
        self,
        source: Source | MixedSources,
        evaluation_source: Source | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        records: RecordStats | None = None,
    ):
        if len(source) == 0:
            raise UserError("data.source: expected examples to train on, got none")
        if batch_size < 1:
            raise UserError(f"data.batch_size: expected at least 1, got {batch_size}")
        if not 0 <= seed < 2**32:
            raise UserError(f"data.seed: expected 0 to {2**32 - 1}, got {seed}")
        if workers < 0:
            raise UserError(f"data.workers: expected at least 0, got {workers}")
        self._source = source
        self._parts = source.sources if isinstance(source, MixedSources) else (source,)
        self._epoch_sources = tuple(part if isinstance(part, EpochSource) else None for part in self._parts)
        self._interleaving = source.interleaving if isinstance(source, MixedSources) else Interleaving((1.0,))
        self.manifest: AnyManifest | None = shared_manifest(self._parts, evaluation_source)
        """Manifest of the codes or embeddings, or None if the sources hold images."""
        self._evaluation_source = evaluation_source
        self._batch_size = batch_size
        self._seed = seed
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="data") if workers else None
        self._records = records

    @property
    def batch_size(self) -> int:
        """Return the number of examples in a batch, over all hosts."""
        return self._batch_size

    @property
    def examples(self) -> int:
        """Return the number of training examples."""
        return len(self._source)

    @property
    def held_out(self) -> int:
        """Return the number of evaluation examples, which is 0 if there is no evaluation source."""
        return 0 if self._evaluation_source is None else len(self._evaluation_source)

    def batch(self, step: int, rows: Sequence[int] | None = None) -> ExampleBatch:
        """Return the rows ``rows`` (by default all) of the batch of a step, where steps count from 0."""
        first = step * self._batch_size
        return self._load_all(self._load, [first + row for row in (range(self._batch_size) if rows is None else rows)])

    def evaluation_batches(self, rows: Sequence[int] | None = None) -> Iterator[ExampleBatch]:
        """Yield every evaluation example once, always in the same order.

        Without ``rows`` the last batch holds the remaining examples only. With ``rows`` every batch has exactly those
        rows, and the first examples fill up the last batch. If the last batch is padded, every batch has the lists
        ``COUNTED`` and ``CANDIDATE``.
        """
        count, size = self.held_out, self._batch_size
        for start in range(0, count, size):
            if rows is None:
                yield self._load_all(self._load_held_out, list(range(start, min(start + size, count))))
                continue
            places = [start + row for row in rows]
            batch = self._load_all(self._load_held_out, [place % count for place in places])
            if count % size:
                batch[COUNTED] = [place < count for place in places]
                batch[CANDIDATE] = [place < count + start for place in places]
            yield batch

    def stop_together(self) -> None:
        """Raise the same ``UserError`` on all hosts if too many records are bad. All hosts must call this together."""
        if self._records is not None:
            self._records.stop_together()

    def report(self) -> tuple[str, bytes, str] | None:
        """Return the report on records: file name, file content and a summary of one line.

        Return None if no source has records.

        The report covers all hosts, which must call this together.
        """
        if self._records is None:
            return None
        content = self._records.content()
        return record_stats.FILE, record_stats.to_json(content), record_stats.format_line(content)

    def fingerprint(self) -> str:
        """Return a hash that changes with any batch: sources, order, seed and batch size."""
        evaluation = "" if self._evaluation_source is None else self._evaluation_source.fingerprint()
        parts = (VERSION, self._source.fingerprint(), len(self._source), evaluation, self._batch_size, self._seed)
        return "loader-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _load_all(self, load: Callable[[int], Row], positions: list[int]) -> ExampleBatch:
        loaded = list(map(load, positions) if self._pool is None else self._pool.map(load, positions))
        return _collate(loaded)

    def _load(self, position: int) -> Row:
        """Load the training example at a position of the endless sequence of epochs."""
        part, position_in_part = self._interleaving.at(position)
        source, epoch_source, seed = self._parts[part], self._epoch_sources[part], _seed_of_part(self._seed, part)
        epoch, place = divmod(position_in_part, len(source))
        index = shuffled_index(place, len(source), seed, epoch)
        example = source[index] if epoch_source is None else epoch_source.example(index, epoch)
        return _to_row(example, seed, epoch, index)

    def _load_held_out(self, index: int) -> Row:
        assert self._evaluation_source is not None
        return _to_row(self._evaluation_source[index], self._seed, 0, index)


def shuffled_index(place: int, count: int, seed: int, epoch: int) -> int:
    """Return the index of the example at ``place`` of an epoch of ``count`` examples.

    Each epoch is a permutation that is computed index by index, so no list of indices is kept. grain's own shuffle
    calls the same function, but records statistics of each call, which takes longer than the call.
    """
    return index_shuffle(place, max_index=count - 1, seed=draw("epoch", seed, epoch) % 2**32, rounds=4)


def _seed_of_part(seed: int, part: int) -> int:
    """Return a seed for source number ``part`` of a mixture.

    The first source has the seed that it has without a mixture.
    """
    return draw("part", seed, part) % 2**32 if part else seed


def _to_row(example: Example, seed: int, epoch: int, index: int) -> Row:
    captions = example["captions"]
    chosen = draw(seed, epoch, index) % len(captions)
    row: dict[str, object] = {name: value for name, value in example.items() if name in ARRAYS}
    row["caption"] = captions[chosen]
    if "texts" in example:
        text = example["texts"][chosen]
        row |= {"text_vector": text.vector} | ({} if text.states is None else {"text_states": text.states})
    row["key"] = example["key"]
    row["caption_group"] = caption_group(captions)
    return cast(Row, row)


def caption_group(captions: Sequence[str]) -> int:
    """Return the 31-bit hash of all captions of an example, in any order."""
    return draw(*sorted(captions)) >> 33


def _collate(rows: list[Row]) -> ExampleBatch:
    columns = {name: [row[name] for row in rows] for name in rows[0]}  # type: ignore[literal-required]
    return cast(ExampleBatch, columns)
