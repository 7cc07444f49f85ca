"""Statistics of the records of a run over all hosts: too many bad records stop every host at the same step."""

import contextlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.images import too_many_bad
from dalle_jax.data.examples.record_report import RecordReport, ReportContent, format_report, merge_reports
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_object, read_file

FILE = "records.json"
"""Name of the report in a run's folder; it holds a ``SourceReport`` for each source."""


class SourceReport(TypedDict):
    """The report on one source of a run. ``records`` is the number of the source's records, bad ones included."""

    fingerprint: str
    records: int
    report: ReportContent


@dataclass(frozen=True)
class SourceStats:
    """Statistics of one source: its report from before the first step, and this host's reports since then.

    - ``records``: the number of records in the files, bad ones included.
    - ``validated``: whether all records were checked before the first step. ``before`` is the same on all hosts.
    - ``min_reads``: without validation, the number of reads before ``bad_share`` is enforced.
    """

    fingerprint: str
    records: int
    validated: bool
    min_reads: int
    bad_share: float
    before: ReportContent
    since: Sequence[RecordReport]


class _HostStats(TypedDict):
    """Counts and report of one host since the first step."""

    read: int
    bad_read: int
    content: ReportContent


class RecordStats:
    """Statistics of the sources of a run, by name. All hosts must call each method together."""

    def __init__(self, sources: Mapping[str, SourceStats], folder: Place | None):
        self._sources = dict(sources)
        self._earlier = _earlier_reports(folder)

    def stop_together(self) -> None:
        """Raise the same ``UserError`` on all hosts if more than ``bad_share`` of the records of a source are bad.

        If the records were validated, the share is taken of all records. Otherwise it is taken of the records that were
        read, and a record that several hosts read counts once per host.
        """
        for name, reports in self._gather().items():
            source = self._sources[name]
            content = merge_reports([source.before, *(host["content"] for host in reports)])
            if source.validated:
                read, bad = source.records, sum(kind["count"] for kind in content["bad"].values())
            else:
                read = sum(host["read"] for host in reports)
                bad = sum(host["bad_read"] for host in reports)
            enforced = source.validated or read >= source.min_reads
            if enforced and bad > source.bad_share * read:
                raise too_many_bad(bad, read, source.bad_share, content)

    def content(self) -> dict[str, SourceReport]:
        """Return the report over all hosts, merged with the report in the run's folder if the records are the same."""
        merged = {}
        for name, reports in self._gather().items():
            source = self._sources[name]
            since = [host["content"] for host in reports]
            earlier = self._earlier.get(name)
            if earlier is not None and earlier.get("fingerprint") == source.fingerprint:
                since.append({**earlier["report"], "read": 0})
            report = merge_reports([source.before, *since])
            report["read"] = source.before["read"] or min(report["read"], source.records)
            merged[name] = SourceReport(fingerprint=source.fingerprint, records=source.records, report=report)
        return merged

    def _gather(self) -> dict[str, list[_HostStats]]:
        """Return the statistics of each source since the first step, one entry per host."""
        own = {}
        for name, source in self._sources.items():
            read, bad = (sum(counts) for counts in zip(*(report.counts() for report in source.since), strict=True))
            content = merge_reports([report.content() for report in source.since])
            own[name] = _HostStats(read=read, bad_read=bad, content=content)
        everyone: list[dict[str, _HostStats]] = [json.loads(text) for text in hosts.gather(json.dumps(own).encode())]
        return {name: [host[name] for host in everyone] for name in own}


def to_json(content: Mapping[str, SourceReport]) -> bytes:
    """Return the content of ``records.json``."""
    return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()


def format_line(content: Mapping[str, SourceReport]) -> str:
    """Return the report of all sources in one line."""
    return " | ".join(
        f"{name}: {source['report']['read']} of {source['records']} records read; {format_report(source['report'])}"
        for name, source in content.items()
    )


def _earlier_reports(folder: Place | None) -> dict[str, SourceReport]:
    """Return the content of ``records.json`` in the run's folder, empty if the file is missing or damaged."""
    if folder is None:
        return {}
    with contextlib.suppress(OSError, ValueError, UserError), storage.store_errors(folder):
        return parse_object(read_file(folder / FILE))
    return {}
