"""Examples made from records: filtered, decoded and cropped to a square. A substitute replaces an unusable record."""

import hashlib
import math
import random
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.caption_blend import Blend, WeightedCaptions, choose_caption
from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.examples.record_report import RecordReport, ReportContent, format_kinds, format_report
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.seeded_hash import draw
from dalle_jax.data.source import Example
from dalle_jax.images.crops import Box, centre_box, crop_image, jittered_box, random_box
from dalle_jax.images.decode import WHITE, decode_image
from dalle_jax.images.header import BadImage, Header, Limits, read_header, refuse_sparse

VERSION = 1
"""Increase this when the same records and config give different examples."""
MAX_PIXELS = 89_000_000
"""Number of pixels above which Pillow warns about an image."""
MIN_READS = 100
"""Number of reads before ``bad_share`` is enforced."""
_UNREAD, _USABLE, _UNUSABLE = 0, 1, 2


@dataclass(frozen=True)
class Images:
    """Preprocessing of captioned images to examples of ``size`` pixels a side.

    - ``crop``: "random" is DALL·E 1's random crop, a different one in each epoch; "centre" is the middle square, for
      evaluation; "jitter" keeps the whole image and varies its size and place a little (``jittered_box``), for images
      whose subject reaches the edges.
    - ``background``: the colour behind transparent parts.
    - ``reduced_jpeg``: decode large JPEGs at 1/2, 1/4 or 1/8 of their size if at least two pixels are left for each
      pixel of the crop. It is faster, and the pixels are nearly the same.
    - ``blend``: None lets the loader choose among the record's own captions.
    - ``bad_share``: the run stops if a larger share of the records is bad.
    - ``validate``: the check of every record before the first step. "headers" checks everything but the pixels,
      "pixels" decodes every image too, "none" checks nothing. ``data/examples/index.py`` describes how it changes the
      examples of an epoch.
    - ``index_folder``: the folder that stores the index of usable records; by default the run's folder.
    """

    size: int
    seed: int = 0
    crop: Literal["random", "centre", "jitter"] = "random"
    background: tuple[int, int, int] = WHITE
    reduced_jpeg: bool = False
    limits: Limits = field(default_factory=Limits)
    filters: Filters = field(default_factory=Filters)
    blend: Blend | None = None
    bad_share: float = 0.1
    validate: Literal["headers", "pixels", "none"] = "headers"
    index_folder: str | None = None

    def problems(self) -> list[str]:
        """Return a message for each field with an invalid value."""
        wrong = []
        if self.size < 1:
            wrong.append(f"size must be at least 1 pixel, got {self.size}")
        if self.seed < 0:
            wrong.append(f"seed must not be negative, got {self.seed}")
        if not all(0 <= value <= 255 for value in self.background):
            wrong.append(f"background must be three numbers of 0 to 255, got {self.background}")
        if not 1 <= self.limits.pixels <= MAX_PIXELS:
            wrong.append(f"limits.pixels must be 1 to {MAX_PIXELS}, got {self.limits.pixels}")
        if not 0 <= self.bad_share <= 1:
            wrong.append(f"bad_share must be 0 to 1, got {self.bad_share}")
        return wrong + self.filters.problems() + (self.blend.problems() if self.blend else [])

    def check(self) -> None:
        """Raise ``UserError`` naming every field with an invalid value."""
        if problems := self.problems():
            raise UserError("images: " + "; ".join(problems))

    def source_of(self, records: Records, shared_stop: bool = False) -> "RecordSource":
        """Return the examples of ``records``, without checking the records first. Raise ``UserError`` like ``check``.

        With ``shared_stop`` the source does not raise an error for too many bad records. ``RecordStats`` does, on all
        hosts together.
        """
        self.check()
        return RecordSource(records, self, shared_stop)

    def check_record(self, record: Record) -> "CheckedRecord":
        """Check everything but the pixels. Raise ``BadRecord`` or ``DroppedRecord``."""
        if name := self.filters.failed_filter(record):
            raise DroppedRecord(record.key, name)
        captions = self._captions(record)
        try:
            header = read_header(record.image, self.limits)
            refuse_sparse(header, len(record.image))
        except BadImage as error:
            raise BadRecord(record.key, error.kind, error.reason) from error
        if name := self.filters.failed_size_filter(*header.upright):
            raise DroppedRecord(record.key, name)
        return CheckedRecord(record.key, header, captions)

    def decode(self, checked: "CheckedRecord", min_side: int | None = None) -> Image.Image:
        """Decode RGB pixels; a JPEG may be reduced to ``min_side``. Raise ``BadRecord`` if the image is damaged."""
        try:
            return decode_image(checked.header, background=self.background, min_side=min_side)
        except BadImage as error:
            raise BadRecord(checked.key, error.kind, error.reason) from error

    def _captions(self, record: Record) -> WeightedCaptions:
        """Return the weighted captions whose length ``filters`` allow.

        Raise ``BadRecord`` if the record has no captions, and ``DroppedRecord`` if none of them has an allowed length.
        """
        fields = self.blend.weighted_captions(record) if self.blend else [(1.0, record.captions)]
        if not any(texts for _, texts in fields):
            expected = self.blend.fields if self.blend else "captions"
            raise BadRecord(record.key, "no caption", f"expected a text in one of {expected}, got none")
        kept = [(weight, texts) for weight, all_texts in fields if (texts := self.filters.keep_captions(all_texts))]
        if not kept:
            raise DroppedRecord(record.key, "caption length")
        return kept


class CheckedRecord(NamedTuple):
    """A record that is neither bad nor dropped, as far as is known before its pixels are decoded."""

    key: str
    header: Header
    captions: WeightedCaptions


class DroppedRecord(Exception):
    """A record that the filter ``name`` drops."""

    def __init__(self, key: str, name: str):
        super().__init__(f"{key}: {name}")
        self.key = key
        self.name = name


class RecordSource:
    """An ``EpochSource`` made from records. Crops and blended captions depend only on (seed, epoch, index).

    An unusable record is replaced by a substitute. The substitute is the next usable record in an order of all records
    that depends only on (seed, index). It is the same on every host, in every thread and in every epoch. ``report``
    counts the records that this process read. An unusable record is read only once.
    """

    def __init__(self, records: Records, config: Images, shared_stop: bool = False):
        self.report = RecordReport()
        self._records = records
        self._config = config
        self._states = np.zeros(len(records), np.uint8)
        self._lock = threading.Lock()
        self._shared_stop = shared_stop
        problems = records.problems
        for problem in problems:
            self.report.add_problem(problem)
        total = len(problems) + len(records)
        if len(problems) > config.bad_share * total:
            raise too_many_bad(len(problems), total, config.bad_share, self.report.content())

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        return self.example(index, 0)

    def example(self, index: int, epoch: int) -> Example:
        """Return an example of an epoch. Raise ``UserError`` if too many records are bad or all are unusable."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        for place in self._walk(index):
            if self._states[place] == _UNUSABLE:
                continue
            try:
                example = self._prepare(self._records[place], index, epoch)
            except (BadRecord, DroppedRecord) as problem:
                self._count(place, problem)
            else:
                self._count(place, None)
                return example
        report = format_report(self.report.content())
        raise UserError(f"expected at least one usable record, got none among {len(self)} records ({report})")

    def box(self, index: int, epoch: int, width: int, height: int) -> Box:
        """Return the crop box of example ``index`` in an epoch; width and height are those of the upright image."""
        if self._config.crop == "centre":
            return centre_box(width, height)
        rng = random.Random(draw(self._config.seed, epoch, index))
        if self._config.crop == "jitter":
            return jittered_box(width, height, rng)
        return random_box(width, height, self._config.size, rng)

    def fingerprint(self) -> str:
        """Return a hash that changes with the records, their order and the examples made from them."""
        settings = asdict(self._config)
        for name in ("bad_share", "validate", "index_folder"):  # decide when to stop and what to read ahead
            del settings[name]
        text = repr((VERSION, self._records.fingerprint(), sorted(settings.items())))
        return "images-" + hashlib.sha256(text.encode()).hexdigest()[:16]

    def _walk(self, index: int) -> Iterator[int]:
        """Yield every record once, starting at ``index``, in steps of a stride coprime to the number of records."""
        yield index
        count = len(self)
        stride = draw("instead", self._config.seed, index) % count
        while math.gcd(stride, count) != 1:
            stride += 1
        for step in range(1, count):
            yield (index + step * stride) % count

    def _prepare(self, record: Record, index: int, epoch: int) -> Example:
        config = self._config
        checked = config.check_record(record)
        width, height = checked.header.upright
        box = self.box(index, epoch, width, height)
        min_side = math.ceil(2 * config.size * min(width, height) / box.side) if config.reduced_jpeg else None
        image = crop_image(
            config.decode(checked, min_side), box, config.size, of=(width, height), outside=config.background
        )
        fields = checked.captions
        captions = [choose_caption(fields, config.seed, epoch, index)] if config.blend else list(fields[0][1])
        return Example(key=record.key, image=image, captions=captions)

    def _count(self, place: int, problem: BadRecord | DroppedRecord | None) -> None:
        """Count a record when it is read for the first time. Raise ``UserError`` if too many records are bad."""
        with self._lock:
            first = self._states[place] == _UNREAD
            self._states[place] = _USABLE if problem is None else _UNUSABLE
        if not first:
            return
        count_outcome(self.report, problem)
        if not self._shared_stop:
            read, bad = self.report.counts()
            if read >= min(MIN_READS, len(self)) and bad > self._config.bad_share * read:
                raise too_many_bad(bad, read, self._config.bad_share, self.report.content())


def count_outcome(report: RecordReport, problem: BadRecord | DroppedRecord | None) -> None:
    """Add one record that was read to a report; ``problem`` is None for a usable record."""
    if problem is None:
        report.add_usable()
    elif isinstance(problem, BadRecord):
        report.add_bad(problem)
    else:
        report.add_dropped(problem.key, problem.name)


def too_many_bad(bad: int, of: int, bad_share: float, content: ReportContent) -> UserError:
    """Return the error for ``bad`` bad records among ``of``. It lists the kinds of fault in ``content``."""
    return UserError(
        f"{bad} of {of} records are bad, {bad / of:.1%}, but bad_share allows {bad_share:.1%}: "
        f"{format_kinds(content['bad'])}. Fix or remove them, or raise images.bad_share"
    )
