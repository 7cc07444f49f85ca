"""Counts of the records that were read: usable, bad, or dropped by a filter."""

import json
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal, TypedDict

from dalle_jax.data.records import BadRecord
from dalle_jax.storage import Place, write_bytes

MAX_NAMED = 1000
"""Number of records of each kind whose keys a report holds."""
PARTS: tuple[Literal["bad", "dropped"], ...] = ("bad", "dropped")


class RecordKind(TypedDict):
    """Number of bad or dropped records of one kind (``count``), and a dict for each of the first few of them.

    A dict in ``records`` holds the record's ``key`` and, for a bad record, the ``reason``.
    """

    count: int
    records: list[dict[str, str]]


class ReportContent(TypedDict):
    """Number of records read, the bad records by kind of fault, and the dropped records by filter."""

    read: int
    bad: dict[str, RecordKind]
    dropped: dict[str, RecordKind]


class RecordReport:
    """Counts of the records of this process by fault and by filter, with the keys of the first ``named`` of each.

    Callers must add each record once. Several threads may share a report.
    """

    def __init__(self, named: int = MAX_NAMED):
        self._named = named
        self._lock = threading.Lock()
        self._read = 0
        self._bad_read = 0
        self._counts: dict[Literal["bad", "dropped"], Counter[str]] = {part: Counter() for part in PARTS}
        self._names: dict[tuple[str, str], list[dict[str, str]]] = {}

    def add_problem(self, problem: BadRecord) -> None:
        """Count a record that was found to be bad before it was read."""
        with self._lock:
            self._count("bad", problem.kind, {"key": problem.key, "reason": problem.reason})

    def add_usable(self) -> None:
        """Count a record that was read and can be used."""
        with self._lock:
            self._read += 1

    def add_bad(self, problem: BadRecord) -> None:
        """Count a record that was read and is bad."""
        with self._lock:
            self._read += 1
            self._bad_read += 1
            self._count("bad", problem.kind, {"key": problem.key, "reason": problem.reason})

    def add_dropped(self, key: str, name: str) -> None:
        """Count a record that was read and that the filter ``name`` drops."""
        with self._lock:
            self._read += 1
            self._count("dropped", name, {"key": key})

    def add_content(self, content: ReportContent, bad_read: int) -> None:
        """Add the counts of a report on other records.

        ``bad_read`` of them were found to be bad when they were read.
        """
        with self._lock:
            self._read += content["read"]
            self._bad_read += bad_read
            for part, counts in self._counts.items():
                for kind, found in content[part].items():
                    counts[kind] += found["count"]
                    names = self._names.setdefault((part, kind), [])
                    names += found["records"][: self._named - len(names)]

    def counts(self) -> tuple[int, int]:
        """Return how many records were read, and how many of them are bad."""
        with self._lock:
            return self._read, self._bad_read

    def content(self) -> ReportContent:
        """Return the counts and the listed records, with the most frequent kinds first."""
        with self._lock:
            return ReportContent(read=self._read, bad=self._kinds("bad"), dropped=self._kinds("dropped"))

    def write(self, path: str | Place) -> None:
        """Write the content as a JSON file in one atomic step. Raise ``UserError`` if that fails."""
        write_bytes(path, (json.dumps(self.content(), ensure_ascii=False, indent=1) + "\n").encode())

    def _count(self, part: Literal["bad", "dropped"], kind: str, record: dict[str, str]) -> None:
        self._counts[part][kind] += 1
        names = self._names.setdefault((part, kind), [])
        if len(names) < self._named:
            names.append(record)

    def _kinds(self, part: Literal["bad", "dropped"]) -> dict[str, RecordKind]:
        return {
            kind: RecordKind(count=count, records=list(self._names[part, kind]))
            for kind, count in self._counts[part].most_common()
        }


def format_kinds(kinds: Mapping[str, RecordKind], keys: int = 3) -> str:
    """Format the count of each kind of bad or dropped records, with the first few keys, or "none" without any."""
    phrases = []
    for kind, found in kinds.items():
        names = [record["key"] for record in found["records"][:keys]]
        more = ", …" if found["count"] > len(names) else ""
        phrases.append(f"{found['count']} {kind} ({', '.join(names)}{more})")
    return "; ".join(phrases) or "none"


def format_report(content: ReportContent) -> str:
    """Format the bad and the dropped records of a report as one phrase."""
    return f"bad: {format_kinds(content['bad'])}; dropped: {format_kinds(content['dropped'])}"


def merge_reports(contents: Sequence[ReportContent], named: int = MAX_NAMED) -> ReportContent:
    """Merge the reports of several processes on the same records. A record that several reports name counts once.

    If a report counts more records than it names, the counts are added, and a record may be counted more than once.
    """
    return ReportContent(
        read=sum(content["read"] for content in contents),
        bad=_merge_parts([content["bad"] for content in contents], named),
        dropped=_merge_parts([content["dropped"] for content in contents], named),
    )


def _merge_parts(parts: Sequence[Mapping[str, RecordKind]], named: int) -> dict[str, RecordKind]:
    kinds = dict.fromkeys(kind for part in parts for kind in part)
    return {kind: _merge_kind([part[kind] for part in parts if kind in part], named) for kind in kinds}


def _merge_kind(found: Sequence[RecordKind], named: int) -> RecordKind:
    records = {record["key"]: record for one in found for record in one["records"]}
    all_named = all(one["count"] == len(one["records"]) for one in found)
    count = len(records) if all_named else sum(one["count"] for one in found)
    return RecordKind(count=count, records=[records[key] for key in sorted(records)][:named])
