"""Which records are left out by choice: too small, too oblong, ill matched, unsafe, marked, worded too short.

What a filter asks of ``Record.about`` goes by the names of img2dataset and LAION, in capitals or not.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dalle_jax.data.records import Record

_LANGUAGE = ("language", "lang")


@dataclass(frozen=True)
class Filters:
    """None leaves a filter out. A record dropped is counted under the first filter that it does not pass.

    ``max_aspect`` is longer by shorter side: 2 keeps what DALL·E 1 kept (arXiv 2102.12092, appendix C).
    ``min_similarity`` is CLIP's between caption and image, ``punsafe`` and ``pwatermark`` are chances of 0 to 1.
    Captions shorter or longer than so many characters (without spaces around them) are taken from a record, which is
    dropped when none is left.
    ``languages`` are kept by what the files say of theirs ("en"). ``missing``: what happens to a record that lacks
    what a filter asks for; dropped ones are counted as "no similarity" and the like.
    """

    min_side: int | None = None
    max_aspect: float | None = None
    min_similarity: float | None = None
    min_aesthetic: float | None = None
    max_punsafe: float | None = None
    max_pwatermark: float | None = None
    min_characters: int = 1
    max_characters: int | None = None
    languages: tuple[str, ...] = ()
    missing: Literal["drop", "keep"] = "drop"

    def problems(self) -> list[str]:
        """What makes no sense, one message each."""
        wrong = []
        if self.min_side is not None and self.min_side < 1:
            wrong.append(f"filters.min_side must be at least 1 pixel, got {self.min_side}")
        if self.max_aspect is not None and not self.max_aspect >= 1:
            wrong.append(f"filters.max_aspect is longer by shorter side and so at least 1, got {self.max_aspect}")
        for name, chance in (("max_punsafe", self.max_punsafe), ("max_pwatermark", self.max_pwatermark)):
            if chance is not None and not 0 <= chance <= 1:
                wrong.append(f"filters.{name} must be a chance of 0 to 1, got {chance}")
        most = math.inf if self.max_characters is None else self.max_characters
        if self.min_characters < 0 or most < max(1, self.min_characters):
            got = f"{self.min_characters} and {self.max_characters}"
            wrong.append(f"filters.min_characters and max_characters must leave a length between them, got {got}")
        return wrong

    def dropped(self, record: Record) -> str | None:
        """The name under which a record is left out for what its files say of it; None for one that is kept."""
        about = {name.lower(): value for name, value in record.about.items()}
        asked = (
            (self.min_similarity, 1, ("similarity",)),
            (self.min_aesthetic, 1, ("aesthetic", "aesthetic_score")),
            (self.max_punsafe, -1, ("punsafe",)),
            (self.max_pwatermark, -1, ("pwatermark",)),
        )
        for limit, sign, fields in asked:
            if limit is None:
                continue
            value = _number(about, fields)
            if value is None and self.missing == "drop":
                return f"no {fields[0]}"
            if value is not None and sign * (value - limit) < 0:
                return fields[0]
        return self._language(about)

    def dropped_for_size(self, width: int, height: int) -> str | None:
        """The same for the size of the image as it is seen."""
        if self.min_side is not None and min(width, height) < self.min_side:
            return "side"
        if self.max_aspect is not None and max(width, height) > self.max_aspect * min(width, height):
            return "aspect"
        return None

    def kept(self, captions: Sequence[str]) -> tuple[str, ...]:
        """The captions of a length that is wanted; a record with none is dropped and counted as "caption length"."""
        most = math.inf if self.max_characters is None else self.max_characters
        return tuple(caption for caption in captions if self.min_characters <= len(caption.strip()) <= most)

    def _language(self, about: Mapping[str, Any]) -> str | None:
        if not self.languages:
            return None
        value = next((about[field] for field in _LANGUAGE if isinstance(about.get(field), str)), None)
        if value is None:
            return "no language" if self.missing == "drop" else None
        return None if value.lower() in {language.lower() for language in self.languages} else "language"


def _number(about: Mapping[str, Any], fields: Sequence[str]) -> float | None:
    """The first of the fields that holds a number, be it written as text (as tables of text hold it)."""
    for field in fields:
        try:
            value = float(about[field])
        except (KeyError, TypeError, ValueError):
            continue
        if not math.isnan(value):
            return value
    return None
