"""Records made examples: filtered, decoded, cropped to a square. Another stands in for one that cannot be used."""

import hashlib
import math
import random
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.caption_blend import Blend, choose
from dalle_jax.data.examples.record_filters import Filters
from dalle_jax.data.examples.record_report import RecordReport, summary
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.seeded_hash import draw
from dalle_jax.data.source import Example
from dalle_jax.images.crops import Box, centre_box, crop_image, random_box
from dalle_jax.images.decode import WHITE, decode_image
from dalle_jax.images.header import BadImage, Header, Limits, read_header

VERSION = 1
"""Goes up whenever the same records and configuration would give other examples."""
MOST_PIXELS = 89_000_000
"""Pillow warns of images with more."""
READS_BEFORE_A_STOP = 100
_UNREAD, _USABLE, _LEFT_OUT = 0, 1, 2


@dataclass(frozen=True)
class Images:
    """How captioned images become examples of ``size`` pixels a side.

    ``crop``: "random" is DALL·E 1's, another one each epoch; "centre" is for evaluation. Transparent parts are laid
    over ``background``. ``reduced_jpeg`` decodes large JPEGs at a half, a quarter or an eighth where that leaves two
    pixels for each one wanted: faster, and nearly the same pixels. ``blend``: none lets the loader pick among the
    record's own captions. When more than ``bad_share`` of the records read are bad the run stops.

    ``survey`` says what is looked at before the first step, of every record and once (data/examples/index.py):
    "headers" all
    but the pixels, "pixels" those too, "none" nothing. The list that it makes is stored in ``index_folder``, by
    default in the run's folder.
    """

    size: int
    seed: int = 0
    crop: Literal["random", "centre"] = "random"
    background: tuple[int, int, int] = WHITE
    reduced_jpeg: bool = False
    limits: Limits = field(default_factory=Limits)
    filters: Filters = field(default_factory=Filters)
    blend: Blend | None = None
    bad_share: float = 0.1
    validate: Literal["headers", "pixels", "none"] = "headers"
    index_folder: str | None = None

    def problems(self) -> list[str]:
        """What makes no sense, one message each."""
        wrong = []
        if self.size < 1:
            wrong.append(f"size must be at least 1 pixel, got {self.size}")
        if self.seed < 0:
            wrong.append(f"seed must not be negative, got {self.seed}")
        if not all(0 <= value <= 255 for value in self.background):
            wrong.append(f"background must be three numbers of 0 to 255, got {self.background}")
        if not 1 <= self.limits.pixels <= MOST_PIXELS:
            wrong.append(f"limits.pixels must be 1 to {MOST_PIXELS}, got {self.limits.pixels}")
        if not 0 <= self.bad_share <= 1:
            wrong.append(f"bad_share must be 0 to 1, got {self.bad_share}")
        return wrong + self.filters.problems() + (self.blend.problems() if self.blend else [])

    def check(self) -> None:
        """Raises ``UserError`` naming every field that makes no sense."""
        if problems := self.problems():
            raise UserError("images: " + "; ".join(problems))

    def of(self, records: Records, agreed: bool = False) -> "RecordSource":
        """The source, without a survey. Raises ``UserError`` naming every field that makes no sense.


        ``agreed``: too many bad records stop nothing here, since all hosts agree on that
        (data/examples/record_stats.py).
        """
        self.check()
        return RecordSource(records, self, agreed)

    def considered(self, record: Record) -> "CheckedRecord":
        """What a record offers, as far as it is known without its pixels. Raises BadRecord or ``DroppedRecord``."""
        if name := self.filters.dropped(record):
            raise DroppedRecord(record.key, name)
        offers = self._offers(record)
        try:
            header = read_header(record.image, self.limits)
        except BadImage as error:
            raise BadRecord(record.key, error.kind, error.reason) from error
        if name := self.filters.dropped_for_size(*header.upright):
            raise DroppedRecord(record.key, name)
        return CheckedRecord(record.key, header, offers)

    def decoded(self, usable: "CheckedRecord", at_least: int | None = None) -> Image.Image:
        """The pixels, RGB. Raises BadRecord."""
        try:
            return decode_image(usable.header, background=self.background, min_side=at_least)
        except BadImage as error:
            raise BadRecord(usable.key, error.kind, error.reason) from error

    def _offers(self, record: Record) -> list[tuple[float, tuple[str, ...]]]:
        offers = self.blend.offers(record) if self.blend else [(1.0, record.captions)]
        if not any(texts for _, texts in offers):
            asked = self.blend.fields if self.blend else "captions"
            raise BadRecord(record.key, "no caption", f"expected a text in one of {asked}, got none")
        left = [(weight, texts) for weight, all_ in offers if (texts := self.filters.kept(all_))]
        if not left:
            raise DroppedRecord(record.key, "caption length")
        return left


class CheckedRecord(NamedTuple):
    """A record that is neither bad nor left out, its pixels aside: captions by field, each with its weight."""

    key: str
    header: Header
    offers: list[tuple[float, tuple[str, ...]]]


class DroppedRecord(Exception):
    """A record left out by a filter, by whose name it is counted."""

    def __init__(self, key: str, name: str):
        super().__init__(f"{key}: {name}")
        self.key = key
        self.name = name


class RecordSource:
    """An ``EpochSource`` of records. Crops and blended captions depend on (seed, epoch, index) and nothing else.

    In place of a record that is bad or left out stands the next usable one along a walk over all records that depends
    on (seed, index): the same for every host, worker and epoch, so that none falls out of step. ``report`` counts what
    this process has met. Which records cannot be used is remembered, so each is read once.
    """

    def __init__(self, records: Records, config: Images, agreed: bool = False):
        self.report = RecordReport()
        self._records = records
        self._config = config
        self._states = np.zeros(len(records), np.uint8)
        self._lock = threading.Lock()
        self._agreed = agreed
        problems = records.problems
        for problem in problems:
            self.report.found(problem)
        stop_if_bad(len(problems), len(problems) + len(records), config.bad_share, self.report.content)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> Example:
        return self.example(index, 0)

    def example(self, index: int, epoch: int) -> Example:
        """Example ``index`` as an epoch shows it. Raises ``UserError`` if too many records are bad, or none is left."""
        if not 0 <= index < len(self):
            raise IndexError(index)
        for place in self._walk(index):
            if self._states[place] == _LEFT_OUT:
                continue
            try:
                example = self._prepare(self._records[place], index, epoch)
            except BadRecord as error:
                self._note(place, error)
            except DroppedRecord as choice:
                self._note(place, choice)
            else:
                self._note(place, None)
                return example
        said = f"bad: {self.report.summary('bad')}; dropped: {self.report.summary('dropped')}"
        raise UserError(f"expected a record that can be used, got none among {len(self)} ({said})")

    def box(self, index: int, epoch: int, width: int, height: int) -> Box:
        """What is cut out of an image of that size (as it is to be seen) when it is shown as that example."""
        if self._config.crop == "centre":
            return centre_box(width, height)
        return random_box(width, height, self._config.size, random.Random(draw(self._config.seed, epoch, index)))

    def fingerprint(self) -> str:
        """Changes whenever the records, their order or what is made of them would."""
        settings = asdict(self._config)
        for name in ("bad_share", "validate", "index_folder"):  # say when to stop and what to read, not what is shown
            del settings[name]
        text = repr((VERSION, self._records.fingerprint(), sorted(settings.items())))
        return "images-" + hashlib.sha256(text.encode()).hexdigest()[:16]

    def _walk(self, index: int) -> Iterator[int]:
        """Every record once, beginning with the index itself, by a stride that has no divisor in common with them."""
        yield index
        count = len(self)
        stride = draw("instead", self._config.seed, index) % count
        while math.gcd(stride, count) != 1:
            stride += 1
        for step in range(1, count):
            yield (index + step * stride) % count

    def _prepare(self, record: Record, index: int, epoch: int) -> Example:
        config = self._config
        usable = config.considered(record)
        width, height = usable.header.upright
        box = self.box(index, epoch, width, height)
        enough = math.ceil(2 * config.size * min(width, height) / box.side) if config.reduced_jpeg else None
        image = crop_image(config.decoded(usable, enough), box, config.size, of=(width, height))
        offers = usable.offers
        captions = [choose(offers, config.seed, epoch, index)] if config.blend else list(offers[0][1])
        return Example(key=record.key, image=image, captions=captions)

    def _note(self, place: int, fate: BadRecord | DroppedRecord | None) -> None:
        """Counts what became of a record when it is read for the first time; stops where too many are bad."""
        with self._lock:
            first = self._states[place] == _UNREAD
            self._states[place] = _USABLE if fate is None else _LEFT_OUT
        if not first:
            return
        if fate is None:
            self.report.good()
        elif isinstance(fate, BadRecord):
            self.report.bad(fate)
        else:
            self.report.dropped(fate.key, fate.name)
        if not self._agreed:
            read, bad = self.report.read()
            if read >= min(READS_BEFORE_A_STOP, len(self)):
                stop_if_bad(bad, read, self._config.bad_share, self.report.content)


def stop_if_bad(bad: int, of: int, bad_share: float, content: Callable[[], Mapping[str, Any]]) -> None:
    """Raises ``UserError`` where more than ``bad_share`` of so many records are bad; ``content`` is their report's."""
    if bad <= bad_share * of:
        return
    said = summary(content(), "bad")
    raise UserError(
        f"{bad} of {of} records are bad, {bad / of:.1%}, and bad_share lets {bad_share:.1%} pass: {said}. "
        "Mend or remove them, or raise bad_share"
    )
