"""What became of the records that were read: how many there were, which were bad and which were left out by choice."""

import json
import threading
from collections import Counter
from typing import Any

from dalle_jax.data.records import BadRecord
from dalle_jax.images.files import write_bytes
from dalle_jax.storage import Place


class Report:
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
        kinds = self.content()[part]
        said = []
        for kind, one in kinds.items():
            names = [record["key"] for record in one["records"][:keys]]
            more = ", …" if one["count"] > len(names) else ""
            said.append(f"{one['count']} {kind} ({', '.join(names)}{more})")
        return "; ".join(said) or "none"

    def write(self, path: str | Place) -> None:
        """Writes the content as JSON, aside and renamed. Raises ``UserError`` where that cannot be."""
        write_bytes(path, (json.dumps(self.content(), ensure_ascii=False, indent=1) + "\n").encode())

    def _count(self, part: str, kind: str, record: dict[str, str]) -> None:
        self._counts[part][kind] += 1
        names = self._names.setdefault((part, kind), [])
        if len(names) < self._named:
            names.append(record)
