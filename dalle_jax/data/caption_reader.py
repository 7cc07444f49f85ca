"""The captions of a source, without its images being decoded or drawn."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.caption_blend import Blend
from dalle_jax.data.examples.held_out import HeldOut, keys_of
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.open_data import Openable
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.source import Source


@runtime_checkable
class CaptionSource(Protocol):
    """A ``Source`` that knows an example's captions without its image."""

    def captions(self, index: int) -> list[str]:
        """The captions of example ``index``."""
        ...


def captions_of(source: Source | Records, index: int, blend: Blend | None = None) -> list[str]:
    """The captions of one example, of a record in all fields of ``blend``; raises BadRecord for one that is bad."""
    if isinstance(source, CaptionSource):
        return source.captions(index)
    found = source[index]
    if not isinstance(found, Record):
        return found["captions"]
    offers = blend.offers(found) if blend else [(1.0, found.captions)]
    return [text for _, texts in offers for text in texts]


def read_captions(
    config: Openable | Mixture,
    count: int,
    bad: list[BadRecord],
    blend: Blend | None = None,
    held_out: HeldOut | None = None,
) -> Iterator[str]:
    """The captions of the first ``count`` examples; those that cannot be read are put among the ``bad``.

    Of a mixture they are the first of each source, by its weight. Those ``held_out`` are passed over. Raises UserError
    where nothing can be held out.
    """
    parts = (
        [(1.0, config)]
        if not isinstance(config, Mixture)
        else [(part.weight, part.source) for part in config.parts.values()]
    )
    whole = sum(weight for weight, _ in parts)
    for weight, one in parts:
        source = one.open()
        wanted = round(count * weight / whole)
        for index in _trained_on(source, wanted, held_out):
            try:
                yield from captions_of(source, index, blend)
            except BadRecord as problem:
                bad.append(problem)


def _trained_on(source: Source | Records, count: int, held_out: HeldOut | None) -> list[int]:
    """The first ``count`` examples that are not held out."""
    if held_out is None:
        return list(range(min(count, len(source))))
    if not isinstance(source, Records):
        raise UserError(
            "held_out: expected None, since records can be held out of files alone; the source's examples are made"
        )
    held = held_out.chosen(keys_of(source, np.arange(len(source))))
    return np.flatnonzero(~held)[:count].tolist()
