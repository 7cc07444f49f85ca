"""Caption blending: a weighted random choice between original and synthetic captions of a record."""

import math
from dataclasses import dataclass
from typing import TypeAlias

from dalle_jax.data.records import Record
from dalle_jax.data.seeded_hash import draw

ORIGINAL = "caption"
"""Name of the field that holds the original captions of a record."""

WeightedCaptions: TypeAlias = list[tuple[float, tuple[str, ...]]]
"""The weight and the captions of each field that a record has."""


@dataclass(frozen=True)
class Blend:
    """Captions from several fields of a record's metadata (``Record.metadata``), with a weight for each field.

    The default is DALL·E 3's: 95 % synthetic, 5 % original captions (Betker et al. 2023, "Improving Image Generation
    with Better Captions", on blending). The field "caption" holds the record's original captions. If a record lacks a
    field, the other fields share its weight. A field of weight 0 is chosen only if the record has no other.
    """

    fields: tuple[str, ...] = ("synthetic", ORIGINAL)
    weights: tuple[float, ...] = (0.95, 0.05)

    def problems(self) -> list[str]:
        """Return a message for each field with an invalid value."""
        wrong = []
        if not self.fields or len(set(self.fields)) < len(self.fields):
            wrong.append(f"blend.fields must be one or more different names, got {self.fields}")
        sensible = all(math.isfinite(weight) and weight >= 0 for weight in self.weights) and sum(self.weights) > 0
        if len(self.weights) != len(self.fields) or not sensible:
            count = len(self.fields)
            wrong.append(f"blend.weights must be {count} numbers of at least 0, not all 0, got {self.weights}")
        return wrong

    def weighted_captions(self, record: Record) -> WeightedCaptions:
        """Return the weight and the captions of each field that the record has, in the order of ``fields``."""
        found = [(weight, _texts(record, name)) for name, weight in zip(self.fields, self.weights, strict=True)]
        return [(weight, texts) for weight, texts in found if texts]


def choose_caption(fields: WeightedCaptions, *of: int | str) -> str:
    """Choose a field by weight, then one of its captions uniformly. The choice depends on ``of`` alone.

    The first field is chosen if all weights are 0. ``fields`` and the captions of each field must not be empty.
    """
    point = draw("field", *of) / 2**64 * sum(weight for weight, _ in fields)
    texts = fields[0][1]
    for weight, candidates in fields:
        if point < weight:
            texts = candidates
            break
        point -= weight
    return texts[draw("caption", *of) % len(texts)]


def _texts(record: Record, name: str) -> tuple[str, ...]:
    value = record.metadata.get(name)
    if name == ORIGINAL and value is None:
        return record.captions
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
