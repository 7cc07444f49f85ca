"""Files of rows, one after the other: which file a row is in, and what a row is called."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

from dalle_jax.config.errors import UserError
from dalle_jax.data.records import BadRecord


class Rows:
    """The rows of ``names`` (paths or URLs, all different), of which each file has as many as ``counts`` says."""

    def __init__(self, names: Sequence[str], counts: Sequence[int]):
        self._names = short_names(names)
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def find(self, index: int) -> tuple[int, int]:
        """The number of the file that row ``index`` is in, and its number there. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._ends, index)
        return file, index - (self._ends[file - 1] if file else 0)

    def key(self, file: int, row: int) -> str:
        """What a row is called in reports: no other one has that name."""
        return f"{self._names[file]}:{row}"


class RowRecords:
    """What ``Records`` that are the rows of files share; a key is the file and the row's number in it.

    Raises UserError, naming the ``patterns`` that stand for the files, where there are no rows.
    """

    def __init__(self, patterns: Sequence[str], names: Sequence[str], counts: Sequence[int]):
        self._rows = Rows(names, counts)
        if not len(self._rows):
            raise UserError(f"{', '.join(patterns)}: expected records, got files with none in them")

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """None: what is bad is found when it is read."""
        return ()

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, index: int) -> str:
        """The key of record ``index``, without reading it."""
        return self._rows.key(*self._rows.find(index))


def short_names(names: Sequence[str]) -> list[str]:
    """Different names without the folders that all of them are in."""
    parts = [name.split("/") for name in names]
    shared = 0
    while parts and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]
