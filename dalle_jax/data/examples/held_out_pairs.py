"""Combinations of metadata values that are held out of training, to test whether a model composes."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from dalle_jax.arrays import Bool, Int
from dalle_jax.data.examples.held_out import HeldOut
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.data.seeded_hash import draw

Pair: TypeAlias = tuple[tuple[str, str], tuple[str, str]]
"""Two metadata fields with their values, such as (("thing", "fox"), ("colour", "red"))."""


@dataclass(frozen=True)
class HeldOutPairs:
    """A rule that holds out whole combinations of two metadata fields: about a ``share`` of those that occur.

    ``pairs`` names the fields, such as (("thing", "colour"), ("thing", "style")). If the red fox is held out, no
    training record has both values, whatever else it has. The choice depends on the values and ``seed``. Each value of
    a held-out combination still occurs in training; a combination without which one of them would not is kept.
    Records without one of two fields, or with null in it, have no such combination.

    All records are read once when the data is opened. Added records can move others out of training or into it.
    """

    pairs: tuple[tuple[str, str], ...]
    share: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.pairs or any(first == second for first, second in self.pairs):
            raise ValueError(
                f"pairs: expected two different fields in each, such as thing and colour, got {self.pairs}"
            )
        if not 0 < self.share < 1:
            raise ValueError(f"share: expected more than 0 and less than 1, got {self.share}")

    def held(self, records: Records, indices: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
        """Return True for each of the records at ``indices`` that is held out. Records are read."""
        return self.mask([_metadata(records, int(index)) for index in indices])

    def mask(self, metadata: list[Mapping[str, object]]) -> Bool[np.ndarray, " n"]:
        """Return True for each record that is held out, given the metadata of all records."""
        members: dict[Pair, list[int]] = defaultdict(list)
        for row, fields in enumerate(metadata):
            for pair in self.combinations(fields):
                members[pair].append(row)
        left = Counter(part for fields in metadata for part in self._parts(fields))
        held = np.zeros(len(metadata), bool)
        for pair in sorted(filter(self._is_drawn, members), key=lambda one: (self._number(one), one)):
            rows = [row for row in members[pair] if not held[row]]
            taken = Counter(part for row in rows for part in self._parts(metadata[row]))
            if all(left[part] > taken[part] for part in pair):
                held[rows] = True
                left -= taken
        return held

    def combinations(self, metadata: Mapping[str, object]) -> Iterator[Pair]:
        """Yield the combinations of a record, one for each of ``pairs`` of which it has both fields."""
        for first, second in self.pairs:
            if metadata.get(first) is not None and metadata.get(second) is not None:
                yield (first, str(metadata[first])), (second, str(metadata[second]))

    def _parts(self, metadata: Mapping[str, object]) -> set[tuple[str, str]]:
        fields = {field for pair in self.pairs for field in pair}
        return {(field, str(metadata[field])) for field in fields if metadata.get(field) is not None}

    def _is_drawn(self, pair: Pair) -> bool:
        return self._number(pair) < self.share * 2**64

    def _number(self, pair: Pair) -> int:
        (first, value), (second, other) = pair
        return draw("held out pair", self.seed, first, value, second, other)


AnyHeldOut: TypeAlias = HeldOut | HeldOutPairs
"""A rule that divides the records of a source into training and held-out ones."""


def _metadata(records: Records, index: int) -> Mapping[str, object]:
    """Return the metadata of a record; a record that cannot be read has none."""
    try:
        return records[index].metadata
    except BadRecord:
        return {}
