"""What became of the records of a run, over all hosts: agreed when it is too much, told in a file and a line."""

import contextlib
import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dalle_jax import storage
from dalle_jax.data.examples.images import stop_if_bad
from dalle_jax.data.examples.record_report import RecordReport, merged, summary
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place

FILE = "records.json"
"""The report in a run's folder: for each source ``read``, ``bad`` and ``dropped`` (data/examples/record_report.py)."""


@dataclass(frozen=True)
class Account:
    """Of one source: what was seen before the first step, the same on all hosts, and what this host meets since.

    ``records`` are all that the files hold, the bad ones too; ``validated``: all of them were looked at before. Else
    nothing is judged before ``enough`` were read.
    """

    fingerprint: str
    records: int
    validated: bool
    enough: int
    bad_share: float
    before: Mapping[str, Any]
    since: Sequence[RecordReport]


class RecordStats:
    """The accounts of the sources of a run by name. Hosts must call each method at the same place."""

    def __init__(self, accounts: Mapping[str, Account], folder: Place | None):
        self._accounts = dict(accounts)
        self._earlier = _earlier(folder)

    def stop_together(self) -> None:
        """Raises the same ``UserError`` on all hosts where more records are bad than the configuration lets pass.

        After a survey that is the share of all records. Else it is that of the records that were read, where one that
        several hosts met counts for each of them.
        """
        for name, parts in self._gathered().items():
            account = self._accounts[name]
            whole = merged([account.before, *(one for _, one in parts)])
            read, bad = account.records, sum(one["count"] for one in whole["bad"].values())
            if not account.validated:
                read, bad = (sum(counts[what] for counts, _ in parts) for what in ("read", "bad_read"))
            if account.validated or read >= account.enough:
                stop_if_bad(bad, read, account.bad_share, functools.partial(dict, whole))

    def content(self) -> dict[str, Any]:
        """The report, over all hosts and over what an earlier start of the run told of the same records."""
        told = {}
        for name, parts in self._gathered().items():
            account = self._accounts[name]
            known = [one for _, one in parts]
            earlier = self._earlier.get(name, {})
            if earlier.get("fingerprint") == account.fingerprint:
                known.append({**earlier["report"], "read": 0})
            whole = merged([account.before, *known])
            whole["read"] = account.before["read"] or min(whole["read"], account.records)
            told[name] = {"fingerprint": account.fingerprint, "records": account.records, "report": whole}
        return told

    def file(self, content: Mapping[str, Any]) -> bytes:
        """The report as the bytes of a JSON file."""
        return (json.dumps(content, ensure_ascii=False, indent=1) + "\n").encode()

    def _gathered(self) -> dict[str, list[tuple[dict[str, int], dict[str, Any]]]]:
        """For each source, of each host: what was read since, and the content of its reports."""
        ours = {}
        for name, account in self._accounts.items():
            contents = merged([one.content() for one in account.since])
            read, bad = (sum(counts) for counts in zip(*(one.read() for one in account.since), strict=True))
            ours[name] = ({"read": read, "bad_read": bad}, contents)
        theirs = [json.loads(one) for one in hosts.gather(json.dumps(ours).encode())]
        return {name: [tuple(one[name]) for one in theirs] for name in ours}


def line(content: Mapping[str, Any]) -> str:
    """The report in a line."""
    said = []
    for name, one in content.items():
        report = one["report"]
        parts = [f"bad: {summary(report, 'bad')}", f"left out: {summary(report, 'dropped')}"]
        said.append(f"{name}: {report['read']} of {one['records']} records read; " + "; ".join(parts))
    return " | ".join(said)


def _earlier(folder: Place | None) -> dict[str, Any]:
    """What the report of the same folder says, where there is one."""
    if folder is None:
        return {}
    with contextlib.suppress(OSError, ValueError), storage.store_errors(folder):
        found = json.loads((folder / FILE).read_text())
        return found if isinstance(found, dict) else {}
    return {}
