"""Records kept from training for the figures that are printed meanwhile, and lists of some of a source's records."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.data.records import BadRecord, Keyed, Record, Records
from dalle_jax.data.seeded_hash import draw


@dataclass(frozen=True)
class HeldOut:
    """``count`` records of the training source, or the ``share`` of them, that are never trained on.

    Of a mixture they are held out of each source.

    Which ones depends on their keys and ``seed`` alone: on no order, no other record's bytes and no other setting.
    With a count they are those whose keys come first by chance; with a share each key decides for itself, so that
    records that are added later move none from one side to the other. A count or share of 0 holds nothing out.
    """

    count: int | None = None
    share: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise ValueError(f"expected either a count or a share, got count {self.count} and share {self.share}")
        if self.count is not None and self.count < 0:
            raise ValueError(f"count: expected at least 0, got {self.count}")
        if self.share is not None and not 0 <= self.share < 1:
            raise ValueError(f"share: expected at least 0 and less than 1, got {self.share}")

    def chosen(self, keys: Sequence[str]) -> np.ndarray:
        """Whether each of the records with those keys is held out: bool [N]."""
        chances = [draw("held out", self.seed, key) for key in keys]
        held = np.zeros(len(keys), bool)
        if self.share is not None:
            held[:] = [chance < self.share * 2**64 for chance in chances]
        else:
            first = sorted(range(len(keys)), key=lambda index: (chances[index], keys[index]))[: self.count]
            held[first] = True
        return held


class Subset:
    """``Records`` that are some of another source's, by their ``indices``, in that order."""

    def __init__(self, records: Records, indices: np.ndarray, problems: tuple[BadRecord, ...] = ()):
        self._records = records
        self._indices = np.asarray(indices, np.int64)
        self._problems = problems

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """Those that were given: of which part of a source a problem is none can say."""
        return self._problems

    def __len__(self) -> int:
        return len(self._indices)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self._records[int(self._indices[index])]

    def fingerprint(self) -> str:
        """Changes with the source and with which of its records these are."""
        text = self._records.fingerprint().encode() + self._indices.tobytes()
        return "chosen-" + hashlib.sha256(text).hexdigest()[:16]


def keys_of(records: Records, indices: np.ndarray) -> list[str]:
    """The keys of some records: without reading them where the source can tell."""
    return [_key(records, int(index)) for index in indices]


def _key(records: Records, index: int) -> str:
    if isinstance(records, Keyed):
        return records.key(index)
    try:
        return records[index].key
    except BadRecord as error:
        return error.key
