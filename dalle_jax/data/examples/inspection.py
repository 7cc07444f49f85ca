"""What is in a source: sizes, captions, what is bad, what is there twice, what a config crops and leaves out.

One pass; a few numbers are kept of each image, and the pixels of a sheet's cells.
"""

import hashlib
import re
from array import array
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np

from dalle_jax.data.examples.images import CheckedRecord, DroppedRecord, Images, RecordSource
from dalle_jax.data.examples.record_report import RecordReport
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.source import Source
from dalle_jax.images.contact import contact_cell
from dalle_jax.images.crops import Box
from dalle_jax.images.header import BadImage, Header, Limits, read_header

CELL = 128
MOST_WORDS = 200_000
NAMED = 20
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class SheetCell:
    """A cell of the contact sheet; ``dropped`` is the filter that leaves the image out, None where it is used."""

    key: str
    pixels: np.ndarray
    caption: str
    dropped: str | None


@dataclass(frozen=True)
class Repeats:
    """How many images repeat an earlier one in some way, and (earlier, later) keys of the first of them."""

    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass
class InspectionFindings:
    """What was found; numbers per image in the order in which they were met."""

    listed: int
    examined: int = 0
    usable: int = 0
    report: RecordReport = field(default_factory=lambda: RecordReport(named=NAMED))
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    numbers: dict[str, array] = field(default_factory=dict)
    repeats: dict[str, Repeats] = field(default_factory=dict)
    sheet: list[SheetCell] = field(default_factory=list)

    def quantiles(self) -> dict[str, list[float]]:
        """Least, 5 %, middle, 95 % and most of each kind of number."""
        return {
            name: [float(one) for one in np.quantile(np.frombuffer(values, values.typecode), QUANTILES)]
            for name, values in self.numbers.items()
            if len(values)
        }

    def add(self, name: str, value: float | int) -> None:
        """One more number of a kind."""
        self.numbers.setdefault(name, array("d")).append(value)


def inspect(
    source: Source | Records, images: Images, most: int, cells: int, say: Callable[[str], None] = lambda _: None
) -> InspectionFindings:
    """Reads and decodes up to ``most`` examples, evenly spread, of which ``cells`` are kept for the sheet.

    ``images`` says what becomes of records; drawn scenes come as they are.
    """
    count = len(source)
    indices = range(count) if count <= most else np.linspace(0, count - 1, most).astype(int)
    findings = InspectionFindings(count)
    for problem in source.problems if isinstance(source, Records) else ():
        findings.report.found(problem)
    look = _Look(source, images, findings)
    for place, index in enumerate(map(int, indices)):
        wants_cell = len(findings.sheet) < (place + 1) * cells / len(indices)
        look.at(index, wants_cell)
        if (place + 1) % 1000 == 0:
            say(f"{place + 1} of {len(indices)}")
    look.finish()
    return findings


class _Look:
    """One pass over a source."""

    def __init__(self, source: Source | Records, images: Images, findings: InspectionFindings):
        self._source = source
        self._config = images
        self._found = findings
        whatever_is_bad = replace(images, bad_share=1.0)
        self._boxes = RecordSource(source, whatever_is_bad) if isinstance(source, Records) else None
        self._digests: dict[str, tuple[array, array]] = {}

    def at(self, index: int, wants_cell: bool) -> None:
        """Reads one example and notes everything of it."""
        found = self._found
        found.examined += 1
        try:
            one = self._source[index]
            if not isinstance(one, Record):
                self._example(index, one["key"], one["image"], one["captions"], wants_cell)
                return
            self._record(index, one, wants_cell)
        except BadRecord as problem:
            found.report.bad(problem)

    def _example(self, index: int, key: str, image: np.ndarray, captions: list[str], wants_cell: bool) -> None:
        """An example that a source made by itself."""
        self._captions(index, captions)
        self._size(image.shape[1], image.shape[0])
        self._note("image", index, image.tobytes())
        self._note("key", index, key.encode())
        self._found.report.good()
        self._found.usable += 1
        if wants_cell:
            self._found.sheet.append(SheetCell(key, contact_cell(image, CELL), captions[0], None))

    def _record(self, index: int, record: Record, wants_cell: bool) -> None:
        """A record, judged as ``data/examples/images.py`` does: bad, or left out by the first filter that it does
        not pass."""
        found, config = self._found, self._config
        self._note("key", index, record.key.encode())
        self._note("image", index, record.image)
        self._captions(index, list(record.captions))
        found.add("bytes", len(record.image))
        dropped = None
        try:
            header = config.considered(record).header
        except DroppedRecord as choice:
            dropped, header = choice.name, _header(record, config.limits)
        if dropped is None or wants_cell:
            pixels = np.asarray(config.decoded(CheckedRecord(record.key, header, [])))
        width, height = header.upright
        found.formats[header.format] += 1
        self._size(width, height)
        box = self._box(index, width, height)
        if dropped is None:
            found.report.good()
            found.usable += 1
            found.add("share of the image that is kept", box.side**2 / (width * height))
            found.add("pixels of the image for one that is kept", box.side / config.size)
        else:
            found.report.dropped(record.key, dropped)
        if wants_cell:
            drawn = contact_cell(pixels, CELL, box if dropped is None else None)
            found.sheet.append(SheetCell(record.key, drawn, record.captions[0], dropped))

    def _box(self, index: int, width: int, height: int) -> Box:
        assert self._boxes is not None
        return self._boxes.box(index, 0, width, height)

    def _captions(self, index: int, captions: list[str]) -> None:
        found = self._found
        found.add("captions", len(captions))
        for caption in captions:
            words = _WORD.findall(caption)
            found.add("characters of a caption", len(caption))
            found.add("words of a caption", len(words))
            found.words.update(word.lower() for word in words)
        if len(found.words) > MOST_WORDS:
            found.words = Counter(dict(found.words.most_common(MOST_WORDS // 2)))
        self._note("caption", index, "\n".join(sorted(captions)).encode("utf-8", errors="replace"))

    def _size(self, width: int, height: int) -> None:
        found = self._found
        if len(found.sizes) < MOST_WORDS or (width, height) in found.sizes:
            found.sizes[width, height] += 1
        found.add("width", width)
        found.add("height", height)
        found.add("longer by shorter side", max(width, height) / min(width, height))

    def _note(self, kind: str, index: int, content: bytes) -> None:
        """64 bits of a digest: among a million things one pair in 37 million is taken for equal wrongly."""
        digests, indices = self._digests.setdefault(kind, (array("Q"), array("Q")))
        digests.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))
        indices.append(index)

    def finish(self) -> None:
        """Which examples have the same digest."""
        for kind, (digests, indices) in self._digests.items():
            values = np.frombuffer(digests, np.uint64)
            order = np.argsort(values, kind="stable")
            again = np.flatnonzero(values[order][1:] == values[order][:-1])
            pairs = tuple(
                (self._key(indices[int(order[one])]), self._key(indices[int(order[one + 1])])) for one in again[:NAMED]
            )
            self._found.repeats[kind] = Repeats(len(again), pairs)

    def _key(self, index: int) -> str:
        found = self._source[index]
        return found.key if isinstance(found, Record) else found["key"]


def _header(record: Record, limits: Limits) -> Header:
    try:
        return read_header(record.image, limits)
    except BadImage as error:
        raise BadRecord(record.key, error.kind, error.reason) from error
