"""Batches of a source, by step: shuffled anew each epoch, every example once per epoch, any step at random access.

The position in the data is the step and nothing else: ``batch(step)`` is a pure function of source, seed and step, so a
resumed run goes on with the very examples that it would have seen, whatever number of hosts and workers prepare them.
Batches run on over the end of an epoch. data/examples/index.py says what an epoch is where records are bad or left out.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from grain.experimental import index_shuffle

from dalle_jax.arrays import CANDIDATE, COUNTED
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples import multi_host_report
from dalle_jax.data.examples.multi_host_report import RecordStats
from dalle_jax.data.mixture import Mixed, Pattern
from dalle_jax.data.seeded_hash import draw
from dalle_jax.data.source import EpochSource, Example, Source
from dalle_jax.data.sources.precomputed import Manifest, shared_manifest

VERSION = 3
"""Goes up whenever the same sources, seed and batch size would give other batches."""


class Loader:
    """Training batches of ``source`` and the fixed evaluation batches of ``evaluation_source``.

    A batch is ``{"image": [uint8 [H W 3]], "caption": [str], "key": [str], "meaning": [int]}`` with ``batch_size``
    entries each; sources of codes have ``"codes": [int32 [h w]]`` in place of images. Which of an example's captions
    is taken depends on (seed, epoch, index). ``meaning`` is a number of 31 bits that two examples share when their
    lists of captions hold the same: an image's other phrasings are no negatives of it. ``workers`` threads make the
    examples of a batch beside each other; with 0 the caller makes them. ``records`` are the accounts of what was read.
    """

    def __init__(
        self,
        source: Source | Mixed,
        evaluation_source: Source | None,
        batch_size: int,
        seed: int,
        workers: int = 0,
        records: RecordStats | None = None,
    ):
        if len(source) == 0:
            raise UserError("expected training data, got a source with no examples in it")
        if batch_size < 1:
            raise UserError(f"expected a batch size of at least 1, got {batch_size}")
        if not 0 <= seed < 2**32:
            raise UserError(f"expected a data seed of 0 to {2**32 - 1}, got {seed}")
        if workers < 0:
            raise UserError(f"expected at least 0 data workers, got {workers}")
        self._source = source
        self._parts = source.sources if isinstance(source, Mixed) else (source,)
        self._changing = tuple(one if isinstance(one, EpochSource) else None for one in self._parts)
        self._pattern = source.pattern if isinstance(source, Mixed) else Pattern((1.0,))
        self.manifest: Manifest | None = shared_manifest(self._parts, evaluation_source)
        """What the codes are of, where the sources are of codes."""
        self._evaluation_source = evaluation_source
        self._batch_size = batch_size
        self._seed = seed
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="data") if workers else None
        self._records = records

    @property
    def batch_size(self) -> int:
        """Examples in a batch, over all hosts."""
        return self._batch_size

    def batch(self, step: int, rows: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """The raw examples of a step (0, 1, …): those at ``rows`` of the batch, by default all."""
        first = step * self._batch_size
        return self._made(self._load, [first + row for row in self._all(rows)])

    @property
    def examples(self) -> int:
        """The number of training examples."""
        return len(self._source)

    @property
    def held_out(self) -> int:
        """The number of evaluation examples, 0 without an evaluation."""
        return 0 if self._evaluation_source is None else len(self._evaluation_source)

    def evaluation_batches(self, rows: Sequence[int] | None = None) -> Iterator[dict[str, list[Any]]]:
        """Yield every evaluation example once, always in the same order.

        Without ``rows`` the last batch is as small as what is left. With ``rows`` every batch has those rows, and the
        last is filled up with examples from the beginning. Then all batches say of each row whether it is ``COUNTED``
        (arrays.py), and whether it is a ``CANDIDATE``: the first row of its example in this batch.
        """
        count, size = self.held_out, self._batch_size
        for start in range(0, count, size):
            if rows is None:
                yield self._made(self._held_out, list(range(start, min(start + size, count))))
                continue
            places = [start + row for row in rows]
            batch = self._made(self._held_out, [place % count for place in places])
            if count % size:
                batch[COUNTED] = [place < count for place in places]
                batch[CANDIDATE] = [place < count + start for place in places]
            yield batch

    def stop_together(self) -> None:
        """Raises the same ``UserError`` on all hosts where too many records were bad; all call it at the same step."""
        if self._records is not None:
            self._records.stop_together()

    def report(self) -> tuple[str, bytes, str] | None:
        """Return a report on the records of all hosts: its file name, its content, and a one-line summary."""
        if self._records is None:
            return None
        content = self._records.content()
        return multi_host_report.FILE, self._records.file(content), multi_host_report.line(content)

    def _made(self, make: Callable[[int], dict[str, Any]], places: list[int]) -> dict[str, list[Any]]:
        return _collate(list(map(make, places)) if self._pool is None else list(self._pool.map(make, places)))

    def _all(self, rows: Sequence[int] | None) -> Sequence[int]:
        return range(self._batch_size) if rows is None else rows

    def fingerprint(self) -> str:
        """Changes whenever any batch would: source, evaluation source, order or batch size."""
        evaluation = "" if self._evaluation_source is None else self._evaluation_source.fingerprint()
        parts = (VERSION, self._source.fingerprint(), len(self._source), evaluation, self._batch_size, self._seed)
        return "loader-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _load(self, position: int) -> dict[str, Any]:
        """The example that stands at ``position`` in the endless order of all epochs."""
        part, place = self._pattern.at(position)
        source, changing, seed = self._parts[part], self._changing[part], _seed_of(self._seed, part)
        epoch, place = divmod(place, len(source))
        index = shuffled(place, len(source), seed, epoch)
        example = source[index] if changing is None else changing.example(index, epoch)
        return self._pick(example, seed, epoch, index)

    def _held_out(self, index: int) -> dict[str, Any]:
        return self._pick(self._evaluation_source[index], self._seed, 0, index)  # type: ignore[index]

    def _pick(self, example: Example, seed: int, epoch: int, index: int) -> dict[str, Any]:
        captions = example["captions"]
        caption = captions[draw(seed, epoch, index) % len(captions)]
        shown = {name: value for name, value in example.items() if name in ("image", "codes", "condition")}
        return {**shown, "caption": caption, "key": example["key"], "meaning": draw(*sorted(captions)) >> 33}


def shuffled(place: int, count: int, seed: int, epoch: int) -> int:
    """The example of ``count`` that stands at ``place`` in an epoch: all of them once, with no list of them kept.

    It is what grain's own shuffle calls, without the accounts that grain keeps of each call, which take longer.
    """
    return index_shuffle(place, max_index=count - 1, seed=draw("epoch", seed, epoch) % 2**32, rounds=4)


def _seed_of(seed: int, part: int) -> int:
    """Each source of a mixture has chances of its own, the first those that it has alone."""
    return draw("part", seed, part) % 2**32 if part else seed


def _collate(examples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [one[name] for one in examples] for name in examples[0]}
