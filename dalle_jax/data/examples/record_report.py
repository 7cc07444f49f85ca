"""What became of the records that were read: how many there were, which were bad and which were left out by choice."""

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from dalle_jax.data.records import BadRecord
from dalle_jax.storage import Place, write_bytes


class RecordReport:
    """Counts of records by fault and by filter, naming the first ``named`` of each. Threads may share one.

    It speaks of this process alone and of each record once, however often it is met.
    """

    def __init__(self, named: int = 1000):
        self._named = named
        self._lock = threading.Lock()
        self._read = 0
        self._bad_read = 0
        self._counts: dict[str, Counter[str]] = {"bad": Counter(), "dropped": Counter()}
        self._names: dict[tuple[str, str], list[dict[str, str]]] = {}

    def found(self, problem: BadRecord) -> None:
        """A bad record that was seen without reading it."""
        with self._lock:
            self._count("bad", problem.kind, {"key": problem.key, "reason": problem.reason})

    def good(self) -> None:
        """A record was read and can be used."""
        with self._lock:
            self._read += 1

    def bad(self, problem: BadRecord) -> None:
        """A record was read and is bad."""
        with self._lock:
            self._read += 1
            self._bad_read += 1
            self._count("bad", problem.kind, {"key": problem.key, "reason": problem.reason})

    def dropped(self, key: str, name: str) -> None:
        """A record was read, and the filter of that name leaves it out."""
        with self._lock:
            self._read += 1
            self._count("dropped", name, {"key": key})

    def read(self) -> tuple[int, int]:
        """How many records were read, and how many of them are bad."""
        with self._lock:
            return self._read, self._bad_read

    def add(self, content: Mapping[str, Any], bad_read: int) -> None:
        """What another report counted, of records that this one has not met; ``bad_read`` of them were read and bad."""
        with self._lock:
            self._read += content["read"]
            self._bad_read += bad_read
            for part, counts in self._counts.items():
                for kind, one in content[part].items():
                    counts[kind] += one["count"]
                    names = self._names.setdefault((part, kind), [])
                    names += one["records"][: self._named - len(names)]

    def content(self) -> dict[str, Any]:
        """``read``, and for "bad" and "dropped" by kind ``count`` and ``records`` (key, for bad ones the reason)."""
        with self._lock:
            parts = {
                part: {
                    kind: {"count": count, "records": list(self._names[part, kind])}
                    for kind, count in counts.most_common()
                }
                for part, counts in self._counts.items()
            }
            return {"read": self._read, **parts}

    def summary(self, part: str, keys: int = 3) -> str:
        """ "bad" or "dropped" in words: how many of each kind, with some keys."""
        return summary(self.content(), part, keys)

    def write(self, path: str | Place) -> None:
        """Writes the content as JSON, aside and renamed. Raises ``UserError`` where that cannot be."""
        write_bytes(path, (json.dumps(self.content(), ensure_ascii=False, indent=1) + "\n").encode())

    def _count(self, part: str, kind: str, record: dict[str, str]) -> None:
        self._counts[part][kind] += 1
        names = self._names.setdefault((part, kind), [])
        if len(names) < self._named:
            names.append(record)


def summary(content: Mapping[str, Any], part: str, keys: int = 3) -> str:
    """ "bad" or "dropped" of a report's content in words."""
    said = []
    for kind, one in content[part].items():
        names = [record["key"] for record in one["records"][:keys]]
        more = ", …" if one["count"] > len(names) else ""
        said.append(f"{one['count']} {kind} ({', '.join(names)}{more})")
    return "; ".join(said) or "none"


def merged(contents: Sequence[Mapping[str, Any]], named: int = 1000) -> dict[str, Any]:
    """Reports of several processes on the same records as one: what two of them name is one record.

    Where a report counts more records than it names, the sum of the counts stands, which may count a record twice.
    """
    together: dict[str, Any] = {"read": sum(one["read"] for one in contents)}
    for part in ("bad", "dropped"):
        kinds = dict.fromkeys(kind for one in contents for kind in one[part])
        together[part] = {
            kind: _merged([one[part][kind] for one in contents if kind in one[part]], named) for kind in kinds
        }
    return together


def _merged(ones: Sequence[Mapping[str, Any]], named: int) -> dict[str, Any]:
    records = {record["key"]: record for one in ones for record in one["records"]}
    whole = all(one["count"] == len(one["records"]) for one in ones)
    count = len(records) if whole else sum(one["count"] for one in ones)
    return {"count": count, "records": [records[key] for key in sorted(records)][:named]}
