"""Records that are held out of training for evaluation, and subsets of a source's records."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.data.records import BadRecord, Keyed, Record, Records
from dalle_jax.data.seeded_hash import draw


@dataclass(frozen=True)
class HeldOut:
    """A rule that holds records out of training: ``count`` records of the source, or about a ``share`` of them.

    In a mixture it applies to each source. The choice depends only on the records' keys and ``seed``, not on their
    order or content. With ``share``, each key is decided independently. Records that are added later therefore do not
    move other records into or out of the held-out ones. A count or share of 0 holds out nothing.
    """

    count: int | None = None
    share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise ValueError(
                f"held_out: expected either a count or a share, got count {self.count} and share {self.share}"
            )
        if self.count is not None and self.count < 0:
            raise ValueError(f"count: expected at least 0, got {self.count}")
        if self.share is not None and not 0 <= self.share < 1:
            raise ValueError(f"share: expected at least 0 and less than 1, got {self.share}")

    def held(self, records: Records, indices: np.ndarray) -> np.ndarray:
        """Return bool [N]: True for each of the records at ``indices`` that is held out."""
        return self.mask(keys_of(records, indices))

    def mask(self, keys: Sequence[str]) -> np.ndarray:
        """Return bool [N]: True for each key that is held out."""
        numbers = [draw("held out", self.seed, key) for key in keys]
        held = np.zeros(len(keys), bool)
        if self.share is not None:
            held[:] = [number < self.share * 2**64 for number in numbers]
        else:
            first = sorted(range(len(keys)), key=lambda index: (numbers[index], keys[index]))[: self.count]
            held[first] = True
        return held


class Subset:
    """The ``Records`` of a source at the given ``indices``, in that order."""

    def __init__(self, records: Records, indices: np.ndarray, problems: tuple[BadRecord, ...] = ()):
        self._records = records
        self._indices = np.asarray(indices, np.int64)
        self._problems = problems

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """Return the records with problems that the caller assigned to this subset."""
        return self._problems

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._records[int(self._indices[index])]

    def fingerprint(self) -> str:
        """Return a hash that changes with the source and the indices."""
        text = self._records.fingerprint().encode() + self._indices.tobytes()
        return "chosen-" + hashlib.sha256(text).hexdigest()[:16]


def keys_of(records: Records, indices: np.ndarray) -> list[str]:
    """Return the keys of the records at ``indices``. Records are read only if the source does not know their keys."""
    return [_key(records, int(index)) for index in indices]


def _key(records: Records, index: int) -> str:
    if isinstance(records, Keyed):
        return records.key(index)
    try:
        return records[index].key
    except BadRecord as error:
        return error.key
