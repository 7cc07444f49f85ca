"""Which of a record's captions is shown: original and synthetic ones mixed by weights."""

import math
from dataclasses import dataclass

from dalle_jax.data.records import Record
from dalle_jax.data.seeded_hash import draw

OWN = "caption"
"""The field that stands for the captions a record came with."""


@dataclass(frozen=True)
class Blend:
    """Captions from several fields of what the files say of an image (``Record.metadata``), each with its weight.

    The default is DALL·E 3's: 95 % synthetic, 5 % original captions (Betker et al. 2023, "Improving Image Generation
    with Better Captions", on blending). "caption" stands for the captions that the record came with. A field that a
    record lacks is left out and the others share its weight; one of weight 0 is taken only where all others lack.
    """

    fields: tuple[str, ...] = ("synthetic", OWN)
    weights: tuple[float, ...] = (0.95, 0.05)

    def problems(self) -> list[str]:
        """What makes no sense, one message each."""
        wrong = []
        if not self.fields or len(set(self.fields)) < len(self.fields):
            wrong.append(f"blend.fields must be different names, at least one, got {self.fields}")
        sensible = all(math.isfinite(weight) and weight >= 0 for weight in self.weights) and sum(self.weights) > 0
        if len(self.weights) != len(self.fields) or not sensible:
            count = len(self.fields)
            wrong.append(f"blend.weights must be {count} numbers of at least 0, not all 0, got {self.weights}")
        return wrong

    def offers(self, record: Record) -> list[tuple[float, tuple[str, ...]]]:
        """The weight and the captions of each field that the record has, in order; none where it has none of them."""
        found = [(weight, _texts(record, name)) for name, weight in zip(self.fields, self.weights, strict=True)]
        return [(weight, texts) for weight, texts in found if texts]


def choose(offers: list[tuple[float, tuple[str, ...]]], *of: int | str) -> str:
    """One caption of those offered: the field by weight, in it any caption; by chance that depends on ``of`` alone.

    Where all weights are 0 the first field is taken. There must be an offer, and each must hold a caption.
    """
    point = draw("field", *of) / 2**64 * sum(weight for weight, _ in offers)
    texts = offers[0][1]
    for weight, candidates in offers:
        if point < weight:
            texts = candidates
            break
        point -= weight
    return texts[draw("caption", *of) % len(texts)]


def _texts(record: Record, name: str) -> tuple[str, ...]:
    value = record.metadata.get(name)
    if name == OWN and value is None:
        return record.captions
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(text.strip() for text in texts if isinstance(text, str) and text.strip())
