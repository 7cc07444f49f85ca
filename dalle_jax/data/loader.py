"""Batches of a source, by step: shuffled anew each epoch, every example once per epoch, any step at random access.

The position in the data is the step and nothing else: ``batch(step)`` is a pure function of source, seed and step, so a
resumed run goes on with the very examples that it would have seen. Batches run on over the end of an epoch.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any

from grain import MapDataset

from dalle_jax.config.errors import UserError
from dalle_jax.data.codes import CodesSource, Manifest, check_pair
from dalle_jax.data.draws import draw
from dalle_jax.data.schema import EpochSource, Example, Source


class Loader:
    """Training batches of ``source`` and the fixed evaluation batches of ``evaluation_source``.

    A batch is ``{"image": [uint8 [H W 3]], "caption": [str], "key": [str], "meaning": [int]}`` with ``batch_size``
    entries each; a source of codes has ``"codes": [int32 [h w]]`` in place of pictures. Which of an example's captions
    is taken depends on (seed, epoch, index). ``meaning`` is a number of 31 bits that two examples share when their
    lists of captions hold the same: a picture's other phrasings are no negatives of it.
    """

    def __init__(self, source: Source, evaluation_source: Source | None, batch_size: int, seed: int):
        if len(source) == 0:
            raise UserError("expected training data, got a source with no examples in it")
        if batch_size < 1:
            raise UserError(f"expected a batch size of at least 1, got {batch_size}")
        if not 0 <= seed < 2**32:
            raise UserError(f"expected a data seed of 0 to {2**32 - 1}, got {seed}")
        if evaluation_source is not None and len(evaluation_source) < batch_size:
            raise UserError(
                f"expected at least one batch of {batch_size} evaluation examples, got {len(evaluation_source)}: "
                "lower the batch size or give more"
            )
        check_pair(source, evaluation_source)
        self._source = source
        self._changing = source if isinstance(source, EpochSource) else None
        self._evaluation_source = evaluation_source
        self._batch_size = batch_size
        self._seed = seed
        order = MapDataset.range(len(source)).seed(seed).shuffle().repeat(None)
        self._examples = order.map_with_index(self._load)

    @property
    def manifest(self) -> Manifest | None:
        """What the codes are of, where the source is one of codes."""
        return self._source.manifest if isinstance(self._source, CodesSource) else None

    @property
    def batch_size(self) -> int:
        """Examples in a batch, over all hosts."""
        return self._batch_size

    def batch(self, step: int, rows: Sequence[int] | None = None) -> dict[str, list[Any]]:
        """The raw examples of a step (0, 1, …): those at ``rows`` of the batch, by default all."""
        first = step * self._batch_size
        return _collate([self._examples[first + row] for row in self._all(rows)])

    def evaluation_batches(self, rows: Sequence[int] | None = None) -> Iterator[dict[str, list[Any]]]:
        """``rows`` of each batch of the evaluation examples, always the same; a last partial batch is left out."""
        source = self._evaluation_source
        for start in range(0, 0 if source is None else len(source) - self._batch_size + 1, self._batch_size):
            indices = [start + row for row in self._all(rows)]
            yield _collate([self._pick(source[index], 0, index) for index in indices])  # type: ignore[index]

    def _all(self, rows: Sequence[int] | None) -> Sequence[int]:
        return range(self._batch_size) if rows is None else rows

    def steps_per_epoch(self) -> float:
        """How many batches the training examples make; a fraction where batches run over the end of an epoch."""
        return len(self._source) / self._batch_size

    def fingerprint(self) -> str:
        """Changes whenever any batch would: source, evaluation source, order or batch size."""
        evaluation = "" if self._evaluation_source is None else self._evaluation_source.fingerprint()
        parts = (self._source.fingerprint(), len(self._source), evaluation, self._batch_size, self._seed)
        return "loader-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16]

    def _load(self, position: int, index: int) -> dict[str, Any]:
        """Example ``index``, which stands at ``position`` in the endless order of all epochs."""
        epoch, index = position // len(self._source), int(index)
        example = self._changing.example(index, epoch) if self._changing is not None else self._source[index]
        return self._pick(example, epoch, index)

    def _pick(self, example: Example, epoch: int, index: int) -> dict[str, Any]:
        captions = example["captions"]
        caption = captions[draw(self._seed, epoch, index) % len(captions)]
        shown = {"codes": example["codes"]} if "codes" in example else {"image": example["image"]}
        return {**shown, "caption": caption, "key": example["key"], "meaning": draw(*sorted(captions)) >> 33}


def _collate(examples: list[dict[str, Any]]) -> dict[str, list[Any]]:
    return {name: [one[name] for one in examples] for name in examples[0]}
