"""Filters that drop records by size, aspect ratio, CLIP similarity, safety, watermark, caption length or language.

A filter looks up ``Record.metadata`` by the names of img2dataset and LAION, in upper or lower case.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, SupportsFloat

from dalle_jax.data.records import BadRecord, Record

_LANGUAGE = ("language", "lang")


@dataclass(frozen=True)
class Filters:
    """Limits for records; None disables a filter. A dropped record is counted under the first filter that it fails.

    - ``max_aspect``: longer side / shorter side; 2 keeps the images that DALL·E 1 kept (arXiv 2102.12092, appendix C).
    - ``min_similarity``: CLIP's similarity of caption and image.
    - ``max_punsafe``, ``max_pwatermark``: probabilities of 0 to 1.
    - ``min_characters``, ``max_characters``: captions of other lengths are removed. Spaces at the ends of a caption do
      not count. A record is dropped if it has no caption left.
    - ``languages``: the languages to keep, as the metadata name them ("en").
    - ``missing``: whether to keep a record without the metadata that a filter needs. A record that is dropped for this
      is counted under "no similarity", for example.
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
        """Return a message for each field with an invalid value."""
        wrong = []
        if self.min_side is not None and self.min_side < 1:
            wrong.append(f"filters.min_side must be at least 1 pixel, got {self.min_side}")
        if self.max_aspect is not None and not self.max_aspect >= 1:
            wrong.append(
                f"filters.max_aspect must be at least 1 (it is longer side / shorter side), got {self.max_aspect}"
            )
        for name, chance in (("max_punsafe", self.max_punsafe), ("max_pwatermark", self.max_pwatermark)):
            if chance is not None and not 0 <= chance <= 1:
                wrong.append(f"filters.{name} must be a probability of 0 to 1, got {chance}")
        longest = math.inf if self.max_characters is None else self.max_characters
        if self.min_characters < 0 or longest < max(1, self.min_characters):
            got = f"{self.min_characters} and {self.max_characters}"
            wrong.append(
                f"filters.min_characters must be at least 0, and max_characters at least 1 and not less, got {got}"
            )
        return wrong

    def failed_filter(self, record: Record) -> str | None:
        """Return the name of the first filter on metadata that drops the record, or None."""
        metadata = {name.lower(): value for name, value in record.metadata.items()}
        limits = (
            (self.min_similarity, 1, ("similarity",)),
            (self.min_aesthetic, 1, ("aesthetic", "aesthetic_score")),
            (self.max_punsafe, -1, ("punsafe",)),
            (self.max_pwatermark, -1, ("pwatermark",)),
        )
        for limit, sign, fields in limits:
            if limit is None:
                continue
            value = _number(record.key, metadata, fields)
            if value is None and self.missing == "drop":
                return f"no {fields[0]}"
            if value is not None and sign * (value - limit) < 0:
                return fields[0]
        return self._failed_language(metadata)

    def failed_size_filter(self, width: int, height: int) -> str | None:
        """Return the name of the first filter on the size of the upright image that drops the record, or None."""
        if self.min_side is not None and min(width, height) < self.min_side:
            return "side"
        if self.max_aspect is not None and max(width, height) > self.max_aspect * min(width, height):
            return "aspect"
        return None

    def keep_captions(self, captions: Sequence[str]) -> tuple[str, ...]:
        """Return the captions whose length the filters allow."""
        longest = math.inf if self.max_characters is None else self.max_characters
        return tuple(caption for caption in captions if self.min_characters <= len(caption.strip()) <= longest)

    def _failed_language(self, metadata: Mapping[str, object]) -> str | None:
        if not self.languages:
            return None
        texts = [text for text in (metadata.get(field) for field in _LANGUAGE) if isinstance(text, str)]
        if not texts:
            return "no language" if self.missing == "drop" else None
        return None if texts[0].lower() in {language.lower() for language in self.languages} else "language"


def _number(key: str, metadata: Mapping[str, object], fields: Sequence[str]) -> float | None:
    """Return the number in the first of the fields that holds one, as a number or as text. None if no field does.

    Raise BadRecord for a number that is larger than any float.
    """
    for field in fields:
        value = metadata.get(field)
        if not isinstance(value, str | bytes | SupportsFloat):
            continue
        try:
            number = float(value)
        except ValueError:
            continue
        except OverflowError as error:
            raise BadRecord(
                key, "broken metadata", f"{field}: expected a number below 1e308, got a larger one"
            ) from error
        if not math.isnan(number):
            return number
    return None
