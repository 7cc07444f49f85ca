"""Records made examples: filtered, decoded, cropped to a square. Another stands in for one that cannot be used."""

import hashlib
import math
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Literal

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.captions import Blend, choose
from dalle_jax.data.draws import draw
from dalle_jax.data.filters import Filters
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.report import Report
from dalle_jax.data.schema import Example
from dalle_jax.images.crops import Box, centre_box, cut, random_box
from dalle_jax.images.decode import WHITE, decode_read
from dalle_jax.images.header import BadPicture, Limits, read_header

VERSION = 1
"""Goes up whenever the same records and configuration would give other examples."""
MOST_PIXELS = 89_000_000
"""Pillow warns of pictures with more."""
READS_BEFORE_A_STOP = 100
_UNREAD, _USABLE, _LEFT_OUT = 0, 1, 2


@dataclass(frozen=True)
class Pictures:
    """How captioned pictures become examples of ``size`` pixels a side.

    ``crop``: "random" is DALL·E 1's, another one each epoch; "centre" is for evaluation. Transparent parts are laid
    over ``background``. ``reduced_jpeg`` decodes large JPEGs at a half, a quarter or an eighth where that leaves two
    pixels for each one wanted: faster, and nearly the same pixels. ``blend``: none lets the loader pick among the
    record's own captions. When more than ``bad_share`` of the records read are bad the run stops.
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

    def of(self, records: Records) -> "PicturesSource":
        """The source. Raises ``UserError`` naming every field that makes no sense."""
        if problems := self.problems():
            raise UserError("pictures: " + "; ".join(problems))
        return PicturesSource(records, self)


class PicturesSource:
    """An ``EpochSource`` of records. Crops and blended captions depend on (seed, epoch, index) and nothing else.

    In place of a record that is bad or left out stands the next usable one along a walk over all records that depends
    on (seed, index): the same for every host, worker and epoch, so that none falls out of step. ``report`` counts what
    this process has met. Which records cannot be used is remembered, so each is read once.
    """

    def __init__(self, records: Records, config: Pictures):
        self.report = Report()
        self._records = records
        self._config = config
        self._states = np.zeros(len(records), np.uint8)
        self._lock = threading.Lock()
        problems = records.problems
        for problem in problems:
            self.report.found(problem)
        if len(problems) > config.bad_share * (len(problems) + len(records)):
            raise UserError(self._too_many(len(problems), len(problems) + len(records)))

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
            except _Dropped as choice:
                self._note(place, choice)
            else:
                self._note(place, None)
                return example
        said = f"bad: {self.report.summary('bad')}; dropped: {self.report.summary('dropped')}"
        raise UserError(f"expected a record that can be used, got none among {len(self)} ({said})")

    def box(self, index: int, epoch: int, width: int, height: int) -> Box:
        """What is cut out of a picture of that size (as it is to be seen) when it is shown as that example."""
        if self._config.crop == "centre":
            return centre_box(width, height)
        return random_box(width, height, self._config.size, np.random.default_rng((self._config.seed, epoch, index)))

    def fingerprint(self) -> str:
        """Changes whenever the records, their order or what is made of them would."""
        settings = asdict(self._config)
        del settings["bad_share"]  # says when to stop, not what is shown
        text = repr((VERSION, self._records.fingerprint(), sorted(settings.items())))
        return "pictures-" + hashlib.sha256(text.encode()).hexdigest()[:16]

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
        if name := config.filters.dropped(record):
            raise _Dropped(record.key, name)
        captions = self._captions(record, index, epoch)
        try:
            header = read_header(record.picture, config.limits)
            width, height = header.upright
            if name := config.filters.dropped_for_size(width, height):
                raise _Dropped(record.key, name)
            box = self.box(index, epoch, width, height)
            enough = math.ceil(2 * config.size * min(width, height) / box.side) if config.reduced_jpeg else None
            pixels = decode_read(header, background=config.background, at_least=enough)
        except BadPicture as error:
            raise BadRecord(record.key, error.kind, error.reason) from error
        image = cut(pixels, box, config.size, of=(width, height))
        return Example(key=record.key, image=image, captions=captions)

    def _captions(self, record: Record, index: int, epoch: int) -> list[str]:
        config = self._config
        offers = config.blend.offers(record) if config.blend else [(1.0, record.captions)]
        if not any(texts for _, texts in offers):
            asked = config.blend.fields if config.blend else "captions"
            raise BadRecord(record.key, "no caption", f"expected a text in one of {asked}, got none")
        left = [(weight, texts) for weight, all_ in offers if (texts := config.filters.kept(all_))]
        if not left:
            raise _Dropped(record.key, "caption length")
        return [choose(left, config.seed, epoch, index)] if config.blend else list(left[0][1])

    def _note(self, place: int, fate: "BadRecord | _Dropped | None") -> None:
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
        read, bad = self.report.read()
        if read >= min(READS_BEFORE_A_STOP, len(self)) and bad > self._config.bad_share * read:
            raise UserError(self._too_many(bad, read))

    def _too_many(self, bad: int, of: int) -> str:
        return (
            f"{bad} of {of} records are bad, {bad / of:.1%}, and bad_share lets {self._config.bad_share:.1%} pass: "
            f"{self.report.summary('bad')}. Mend or remove them, or raise bad_share"
        )


class _Dropped(Exception):
    """A record left out by a filter, by whose name it is counted."""

    def __init__(self, key: str, name: str):
        super().__init__(f"{key}: {name}")
        self.key = key
        self.name = name
