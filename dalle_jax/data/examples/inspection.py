"""Inspection of a data source: sizes, captions, bad records, duplicates, and the effect of crops and filters.

The source is read once. Only a few numbers per image and the pixels of the sheet's cells are kept in memory.
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
from dalle_jax.data.source import Example, Source
from dalle_jax.images.contact import contact_cell
from dalle_jax.images.crops import Box
from dalle_jax.images.header import BadImage, Header, Limits, read_header
from dalle_jax.text.tokenizer import TextTokenizer

CELL = 128
MAX_ENTRIES = 200_000
"""Largest number of words and of image sizes that are counted."""
MAX_VALUES = 10_000
"""Largest number of different values that are counted of a metadata field."""
NAMED = 20
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


@dataclass(frozen=True)
class SheetCell:
    """A cell of the contact sheet. ``dropped`` is the filter that drops the image, or None for a usable image."""

    key: str
    pixels: np.ndarray
    caption: str
    dropped: str | None


@dataclass(frozen=True)
class Repeats:
    """Number of examples that repeat an earlier example, and the keys (earlier, later) of the first few pairs."""

    count: int
    examples: tuple[tuple[str, str], ...]


@dataclass
class InspectionFindings:
    """Findings about a source. ``numbers`` holds one value per image or caption, in the order of reading.

    ``metadata`` counts the values of each field that are texts, numbers or truth values.

    ``truncated`` counts the captions of more than ``text_length`` tokens, which is None without a text tokenizer.
    """

    listed: int
    examined: int = 0
    usable: int = 0
    report: RecordReport = field(default_factory=lambda: RecordReport(named=NAMED))
    formats: Counter[str] = field(default_factory=Counter)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    words: Counter[str] = field(default_factory=Counter)
    metadata: dict[str, Counter[str]] = field(default_factory=dict)
    numbers: dict[str, array] = field(default_factory=dict)
    repeats: dict[str, Repeats] = field(default_factory=dict)
    text_length: int | None = None
    truncated: int = 0
    sheet: list[SheetCell] = field(default_factory=list)

    def quantiles(self) -> dict[str, list[float]]:
        """Return the minimum, 5 %, median, 95 % and maximum of each list in ``numbers``, by name."""
        return {
            name: [float(value) for value in np.quantile(np.frombuffer(values, values.typecode), QUANTILES)]
            for name, values in self.numbers.items()
            if len(values)
        }

    def add(self, name: str, value: float | int) -> None:
        """Append ``value`` to the list of numbers ``name``, from which ``quantiles`` are computed."""
        self.numbers.setdefault(name, array("d")).append(value)


def inspect(
    source: Source | Records,
    images: Images,
    max_examples: int,
    cells: int,
    log: Callable[[str], None] = lambda _: None,
    tokenizer: TextTokenizer | None = None,
) -> InspectionFindings:
    """Read and decode up to ``max_examples`` evenly spread examples, and keep ``cells`` of them for the sheet.

    Records are cropped and filtered by the settings ``images``. Rendered scenes are not changed. With a ``tokenizer``
    the tokens of captions are counted, and the captions that it truncates.
    """
    count = len(source)
    indices = range(count) if count <= max_examples else np.linspace(0, count - 1, max_examples).astype(int)
    findings = InspectionFindings(count)
    for problem in source.problems if isinstance(source, Records) else ():
        findings.report.add_problem(problem)
    inspector = _Inspector(source, images, findings, tokenizer)
    for place, index in enumerate(map(int, indices)):
        wants_cell = len(findings.sheet) < (place + 1) * cells / len(indices)
        inspector.examine(index, wants_cell)
        if (place + 1) % 1000 == 0:
            log(f"{place + 1} of {len(indices)}")
    inspector.find_repeats()
    return findings


class _Inspector:
    """A single pass over a source that fills ``findings``."""

    def __init__(
        self, source: Source | Records, images: Images, findings: InspectionFindings, tokenizer: TextTokenizer | None
    ):
        self._source, self._tokenizer = source, tokenizer
        self._config = images
        self._findings = findings
        any_bad_share = replace(images, bad_share=1.0)
        self._crops = RecordSource(source, any_bad_share) if isinstance(source, Records) else None
        self._digests: dict[str, tuple[array, array]] = {}

    def examine(self, index: int, wants_cell: bool) -> None:
        """Read one example and add it to the findings."""
        findings = self._findings
        findings.examined += 1
        try:
            found = self._source[index]
            if isinstance(found, Record):
                self._examine_record(index, found, wants_cell)
            else:
                self._examine_example(index, found, wants_cell)
        except BadRecord as problem:
            findings.report.add_bad(problem)

    def find_repeats(self) -> None:
        """Find equal keys, images and captions by their digests, and add them to the findings."""
        for kind, (digests, indices) in self._digests.items():
            values = np.frombuffer(digests, np.uint64)
            order = np.argsort(values, kind="stable")
            again = np.flatnonzero(values[order][1:] == values[order][:-1])
            pairs = tuple(
                (self._key(indices[int(order[place])]), self._key(indices[int(order[place + 1])]))
                for place in again[:NAMED]
            )
            self._findings.repeats[kind] = Repeats(len(again), pairs)

    def _examine_example(self, index: int, example: Example, wants_cell: bool) -> None:
        """Add an example that the source rendered."""
        key, image, captions = example["key"], example["image"], example["captions"]
        self._add_captions(index, captions)
        self._add_size(image.shape[1], image.shape[0])
        self._add_digest("image", index, image.tobytes())
        self._add_digest("key", index, key.encode())
        self._findings.report.add_usable()
        self._findings.usable += 1
        if wants_cell:
            self._findings.sheet.append(SheetCell(key, contact_cell(image, CELL), captions[0], None))

    def _examine_record(self, index: int, record: Record, wants_cell: bool) -> None:
        """Add a record, after the checks and filters of ``data/examples/images.py``.

        Raise ``BadRecord`` for a bad one.
        """
        findings, config = self._findings, self._config
        self._add_digest("key", index, record.key.encode())
        self._add_digest("image", index, record.image)
        self._add_captions(index, list(record.captions))
        self._add_metadata(record)
        findings.add("bytes", len(record.image))
        dropped = None
        try:
            header = config.check_record(record).header
        except DroppedRecord as problem:
            dropped, header = problem.name, _header(record, config.limits)
        if dropped is None or wants_cell:
            pixels = np.asarray(config.decode(CheckedRecord(record.key, header, [])))
        width, height = header.upright
        findings.formats[header.format] += 1
        self._add_size(width, height)
        box = self._crop(index, width, height)
        if dropped is None:
            findings.report.add_usable()
            findings.usable += 1
            findings.add("share of the image that is kept", min(1.0, box.side**2 / (width * height)))
            findings.add("image pixels per pixel of the crop, along a side", box.side / config.size)
        else:
            findings.report.add_dropped(record.key, dropped)
        if wants_cell:
            cell = contact_cell(pixels, CELL, box if dropped is None else None)
            findings.sheet.append(SheetCell(record.key, cell, record.captions[0], dropped))

    def _crop(self, index: int, width: int, height: int) -> Box:
        assert self._crops is not None
        return self._crops.box(index, 0, width, height)

    def _add_metadata(self, record: Record) -> None:
        for name, value in record.metadata.items():
            if isinstance(value, str | int | float):
                counted = self._findings.metadata.setdefault(name, Counter())
                if len(counted) < MAX_VALUES or str(value) in counted:
                    counted[str(value)] += 1

    def _add_captions(self, index: int, captions: list[str]) -> None:
        findings = self._findings
        findings.add("captions", len(captions))
        for caption in captions:
            words = _WORD.findall(caption)
            findings.add("characters of a caption", len(caption))
            findings.add("words of a caption", len(words))
            findings.words.update(word.lower() for word in words)
        if self._tokenizer is not None:
            findings.text_length = self._tokenizer.length
            for count in self._tokenizer.lengths(captions):
                findings.add("tokens of a caption", count)
                findings.truncated += count > self._tokenizer.length
        if len(findings.words) > MAX_ENTRIES:
            findings.words = Counter(dict(findings.words.most_common(MAX_ENTRIES // 2)))
        self._add_digest("caption", index, "\n".join(sorted(captions)).encode("utf-8", errors="replace"))

    def _add_size(self, width: int, height: int) -> None:
        findings = self._findings
        if len(findings.sizes) < MAX_ENTRIES or (width, height) in findings.sizes:
            findings.sizes[width, height] += 1
        findings.add("width", width)
        findings.add("height", height)
        findings.add("longer side / shorter side", max(width, height) / min(width, height))

    def _add_digest(self, kind: str, index: int, content: bytes) -> None:
        """Add a digest of 64 bits of an example's key, image or captions, by which repeats are found.

        A false repeat is unlikely: among a million contents, two share a digest with probability 1 in 37 million.
        """
        digests, indices = self._digests.setdefault(kind, (array("Q"), array("Q")))
        digests.append(int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little"))
        indices.append(index)

    def _key(self, index: int) -> str:
        found = self._source[index]
        return found.key if isinstance(found, Record) else found["key"]


def _header(record: Record, limits: Limits) -> Header:
    try:
        return read_header(record.image, limits)
    except BadImage as error:
        raise BadRecord(record.key, error.kind, error.reason) from error
