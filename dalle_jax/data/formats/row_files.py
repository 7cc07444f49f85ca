"""Records that are the rows of files: the file of each row, and the keys of rows."""

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate

from dalle_jax.config.errors import UserError
from dalle_jax.data.records import BadRecord, Record


class Rows:
    """The rows of several files in order. ``counts`` holds the number of rows of each file."""

    def __init__(self, counts: Sequence[int]):
        self._ends = list(accumulate(counts))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def find(self, index: int) -> tuple[int, int]:
        """Return the number of the file that holds row ``index``, and the row's number in it. Raises IndexError."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        file = bisect_right(self._ends, index)
        return file, index - (self._ends[file - 1] if file else 0)


class RowRecords(ABC):
    """``Records`` of row files. A subclass implements ``read_row``; a key is ``LABEL:ROW``.

    ``labels`` and ``counts`` hold a unique label and the number of rows of each file. Raises UserError, with the name
    of the ``source``, if there are no rows.
    """

    def __init__(self, source: str, labels: Sequence[str], counts: Sequence[int]):
        self._labels = labels
        self._rows = Rows(counts)
        if not len(self._rows):
            raise UserError(f"{source}: expected records, got none")

    @abstractmethod
    def read_row(self, key: str, file: int, row: int) -> Record:
        """Read row ``row`` of file ``file`` as the record ``key``. Raises BadRecord."""

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """An empty tuple. Faults of rows are found only when rows are read."""
        return ()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        return self.read_row(self.key(index), *self._rows.find(index))

    def key(self, index: int) -> str:
        """Return the key of record ``index`` without reading it."""
        file, row = self._rows.find(index)
        return f"{self._labels[file]}:{row}"


def short_names(paths: Iterable[str]) -> list[str]:
    """Return the paths without the leading folders that all of them share. The results are unique."""
    parts = [path.split("/") for path in paths]
    shared = 0
    while parts and all(len(one) > shared + 1 and one[shared] == parts[0][shared] for one in parts):
        shared += 1
    return ["/".join(one[shared:]) for one in parts]
