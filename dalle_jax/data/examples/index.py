"""All records of a source looked at once, before the first step: which can be used, and what is wrong with the others.

What each mode promises of an epoch, for any number of hosts and workers:

- "pixels": every record is decoded once, so each that can be used comes exactly once per epoch, and no other does.
- "headers" (captions, filters, the image's header): the same for each record that it lets pass, but for one whose
  pixels turn out to be broken. In its place stands another, in every epoch the same, which so comes twice.
- "none": nothing is read ahead. In place of every record that is bad or left out stands another.
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from dalle_jax import storage
from dalle_jax.data.examples.images import DroppedRecord, Images
from dalle_jax.data.examples.record_report import RecordReport, merged
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.parallel import hosts
from dalle_jax.storage import Place, write_bytes

VERSION = 1
"""Goes up whenever the same records and configuration would give another list."""
CHUNK = 64
_MAGIC = b"dalle_jax usable records 1\n"


@dataclass(frozen=True)
class RecordIndex:
    """Which records can be used (bool [N]), what the report on the others says, and how many were read and bad."""

    usable: np.ndarray
    content: dict[str, Any]
    bad_read: int


def build_index(records: Records, images: Images, workers: int, folder: Place | None) -> RecordIndex:
    """Looks at all records, each host at its share of them with so many threads; all get the same answer.

    The list is taken from ``folder`` where it is there, and stored there where it is not. Settings that change nothing
    of it (the size, the crop) may differ. Raises ``UserError`` as reading records does.
    """
    name = f"usable-{_fingerprint(records, images)}"
    path = None if folder is None else folder / name
    stored = b"" if path is None else _stored(path)
    together = hosts.gather(hashlib.sha256(stored).digest() if stored else b"")
    if stored and len(set(together)) == 1:
        return _decoded(stored, len(records))
    host, count = hosts.process_index_and_count()
    share = range(len(records) * host // count, len(records) * (host + 1) // count)
    found = hosts.call_and_share_errors(lambda: _look(records, images, share, max(1, workers)))
    parts = [_decoded(one, None) for one in hosts.gather(_encoded(found))]
    whole = RecordIndex(
        np.concatenate([part.usable for part in parts]),
        merged([part.content for part in parts]),
        sum(part.bad_read for part in parts),
    )
    if path is not None and hosts.is_first():
        write_bytes(path, _encoded(whole))
    return whole


def _look(records: Records, images: Images, share: Sequence[int], threads: int) -> RecordIndex:
    report = RecordReport()
    usable = np.zeros(len(share), bool)
    pixels = images.validate == "pixels"

    def look(first: int) -> list[BadRecord | DroppedRecord | None]:
        return [_fate(records, images, index, pixels) for index in share[first : first + CHUNK]]

    with ThreadPoolExecutor(threads) as pool:
        for first, fates in zip(range(0, len(share), CHUNK), pool.map(look, range(0, len(share), CHUNK)), strict=True):
            for place, fate in enumerate(fates, first):
                usable[place] = fate is None
                if fate is None:
                    report.good()
                elif isinstance(fate, BadRecord):
                    report.bad(fate)
                else:
                    report.dropped(fate.key, fate.name)
    return RecordIndex(usable, report.content(), report.read()[1])


def _fate(records: Records, images: Images, index: int, pixels: bool) -> BadRecord | DroppedRecord | None:
    try:
        usable = images.considered(records[index])
        if pixels:
            images.decoded(usable)
    except (BadRecord, DroppedRecord) as fate:
        return fate.with_traceback(None)  # which would keep the image's bytes
    return None


def _fingerprint(records: Records, images: Images) -> str:
    """Of all that the list depends on."""
    used = {name: asdict(images)[name] for name in ("validate", "background", "limits", "filters", "blend")}
    return hashlib.sha256(repr((VERSION, records.fingerprint(), len(records), used)).encode()).hexdigest()[:16]


def _encoded(found: RecordIndex) -> bytes:
    about = {"records": len(found.usable), "bad_read": found.bad_read, "report": found.content}
    rest = json.dumps(about, ensure_ascii=False).encode() + b"\n" + np.packbits(found.usable).tobytes()
    return _MAGIC + hashlib.sha256(rest).digest() + rest


def _decoded(content: bytes, count: int | None) -> RecordIndex:
    """Raises ValueError for what is damaged, or a list of another length than ``count`` where that is given."""
    head = len(_MAGIC)
    rest = content[head + 32 :]
    if content[:head] != _MAGIC or hashlib.sha256(rest).digest() != content[head : head + 32]:
        raise ValueError("damaged, or of another version")
    line, _, bits = rest.partition(b"\n")
    about = json.loads(line)
    if count not in (None, about["records"]):
        raise ValueError(f"a list of {about['records']} records, not {count}")
    usable = np.unpackbits(np.frombuffer(bits, np.uint8), count=about["records"]).astype(bool)
    return RecordIndex(usable, about["report"], about["bad_read"])


def _stored(path: Place) -> bytes:
    """A list that was stored and is whole; empty where there is none, so that it is made anew."""
    try:
        with storage.store_errors(path):
            content = path.read_bytes()
        _decoded(content, None)
    except (OSError, ValueError):
        return b""
    return content
