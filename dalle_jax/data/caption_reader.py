"""Captions of a source, read without decoding or rendering its images."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.caption_blend import Blend
from dalle_jax.data.examples.held_out_pairs import AnyHeldOut
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.open_data import Openable
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.source import Source


@runtime_checkable
class CaptionSource(Protocol):
    """A ``Source`` that knows an example's captions without its image."""

    def captions(self, index: int) -> list[str]:
        """Return the captions of one example."""
        ...


def captions_of(source: Source | Records, index: int, blend: Blend | None = None) -> list[str]:
    """Return the captions of one example. May raise ``BadRecord``.

    For a record, these are the captions in all fields of ``blend``.
    """
    if isinstance(source, CaptionSource):
        return source.captions(index)
    found = source[index]
    if not isinstance(found, Record):
        return found["captions"]
    fields = blend.weighted_captions(found) if blend else [(1.0, found.captions)]
    return [text for _, texts in fields for text in texts]


def read_captions(
    config: Openable | Mixture,
    count: int,
    bad: list[BadRecord],
    blend: Blend | None = None,
    held_out: AnyHeldOut | None = None,
) -> Iterator[str]:
    """Yield the captions of the first ``count`` examples, and append unreadable records to ``bad``.

    Each source of a mixture yields a share of ``count`` in proportion to its weight. Held-out records are skipped.
    Raise ``UserError`` if the source cannot hold records out.
    """
    parts = (
        [(1.0, config)]
        if not isinstance(config, Mixture)
        else [(part.weight, part.source) for part in config.parts.values()]
    )
    total = sum(weight for weight, _ in parts)
    for weight, part in parts:
        source = part.open()
        for index in _training_indices(source, round(count * weight / total), held_out):
            try:
                yield from captions_of(source, index, blend)
            except BadRecord as problem:
                bad.append(problem)


def _training_indices(source: Source | Records, count: int, held_out: AnyHeldOut | None) -> list[int]:
    """Return the indices of the first ``count`` examples that are not held out."""
    if held_out is None:
        return list(range(min(count, len(source))))
    if not isinstance(source, Records):
        raise UserError(
            f"held_out: expected None, since only records of files can be held out, got {type(held_out).__name__}"
        )
    held = held_out.held(source, np.arange(len(source)))
    return np.flatnonzero(~held)[:count].tolist()
