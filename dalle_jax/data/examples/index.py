"""Index of usable records: every record of a source is checked once, before the first step.

The setting ``Images.validate`` decides which examples an epoch has, for any number of hosts and threads:

- "pixels" decodes every image. Each usable record comes exactly once per epoch, and no other record does.
- "headers" checks captions, filters and image headers. An image whose pixels turn out to be broken is replaced by a
  fixed substitute. The substitute therefore appears twice per epoch.
- "none" checks nothing ahead. A fixed substitute replaces every record that is bad or dropped.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np

from dalle_jax import storage
from dalle_jax.data.examples.images import DroppedRecord, Images, count_outcome
from dalle_jax.data.examples.record_report import RecordReport, ReportContent, merge_reports
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place, write_bytes
from dalle_jax.untrusted import parse_object

VERSION = 1
"""Increase this when the same records and config give a different index."""
CHUNK = 64
_MAGIC = b"dalle_jax usable records 1\n"


@dataclass(frozen=True)
class RecordIndex:
    """Usable records of a source, a report on the others, and the numbers of records that were read and that were bad.

    ``usable`` is bool [N], with an entry for each record.
    """

    usable: np.ndarray
    content: ReportContent
    bad_read: int


def build_index(records: Records, images: Images, workers: int, folder: Place | None) -> RecordIndex:
    """Load the index from ``folder``, or check all records and store it there. All hosts return the same index.

    Each host checks its share of the records with ``workers`` threads. The index does not depend on settings such as
    the size and the crop. Errors of reading records are raised as ``UserError``.
    """
    name = f"usable-{_fingerprint(records, images)}"
    path = None if folder is None else folder / name
    stored = b"" if path is None else _read_stored(path)
    digests = hosts.gather(hashlib.sha256(stored).digest() if stored else b"")
    if stored and len(set(digests)) == 1:
        return _from_bytes(stored, len(records))
    host, count = hosts.process_index_and_count()
    share = range(len(records) * host // count, len(records) * (host + 1) // count)
    own = hosts.call_and_share_errors(lambda: _check_records(records, images, share, max(1, workers)))
    parts = [_from_bytes(part, None) for part in hosts.gather(_to_bytes(own))]
    whole = RecordIndex(
        np.concatenate([part.usable for part in parts]),
        merge_reports([part.content for part in parts]),
        sum(part.bad_read for part in parts),
    )
    if path is not None and hosts.is_first():
        write_bytes(path, _to_bytes(whole))
    return whole


def _check_records(records: Records, images: Images, share: Sequence[int], threads: int) -> RecordIndex:
    report = RecordReport()
    usable = np.zeros(len(share), bool)
    pixels = images.validate == "pixels"

    def check(first: int) -> list[BadRecord | DroppedRecord | None]:
        return [_problem(records, images, index, pixels) for index in share[first : first + CHUNK]]

    starts = range(0, len(share), CHUNK)
    with ThreadPoolExecutor(threads) as pool:
        for first, problems in zip(starts, pool.map(check, starts), strict=True):
            for place, problem in enumerate(problems, first):
                usable[place] = problem is None
                count_outcome(report, problem)
    return RecordIndex(usable, report.content(), report.counts()[1])


def _problem(records: Records, images: Images, index: int, pixels: bool) -> BadRecord | DroppedRecord | None:
    try:
        checked = images.check_record(records[index])
        if pixels:
            images.decode(checked)
    except (BadRecord, DroppedRecord) as problem:
        return problem.with_traceback(None)  # a traceback would keep the image's bytes
    return None


def _fingerprint(records: Records, images: Images) -> str:
    """Return a hash of everything that the index depends on."""
    used = {name: asdict(images)[name] for name in ("validate", "background", "limits", "filters", "blend")}
    return hashlib.sha256(repr((VERSION, records.fingerprint(), len(records), used)).encode()).hexdigest()[:16]


def _to_bytes(index: RecordIndex) -> bytes:
    head = {"records": len(index.usable), "bad_read": index.bad_read, "report": index.content}
    body = json.dumps(head, ensure_ascii=False).encode() + b"\n" + np.packbits(index.usable).tobytes()
    return _MAGIC + hashlib.sha256(body).digest() + body


def _from_bytes(content: bytes, count: int | None) -> RecordIndex:
    """Return a stored index. Raise ``ValueError`` if it is damaged or does not have ``count`` records."""
    start = len(_MAGIC)
    body = content[start + 32 :]
    if content[:start] != _MAGIC or hashlib.sha256(body).digest() != content[start : start + 32]:
        raise ValueError("expected a whole index of usable records in the present format, got other content")
    line, _, bits = body.partition(b"\n")
    head = parse_object(line)
    records, bad_read = head.get("records"), head.get("bad_read")
    if not (isinstance(records, int) and isinstance(bad_read, int) and isinstance(head.get("report"), dict)):
        raise ValueError("expected the numbers of records and of bad ones and a report, got other content")
    if count not in (None, records) or len(bits) != -(-records // 8):
        raise ValueError(f"expected an index of {count} records, got {records} in {len(bits)} bytes")
    usable = np.unpackbits(np.frombuffer(bits, np.uint8), count=records).astype(bool)
    return RecordIndex(usable, head["report"], bad_read)


def _read_stored(path: Place) -> bytes:
    """Return the bytes of a stored index, or no bytes if the file is missing or damaged."""
    try:
        with storage.store_errors(path):
            content = path.read_bytes()
        _from_bytes(content, None)
    except (OSError, ValueError):
        return b""
    return content
