"""The captions of a source, without its pictures being decoded or drawn."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from dalle_jax.data.records import BadRecord, Records
from dalle_jax.data.schema import Source


@runtime_checkable
class CaptionSource(Protocol):
    """A ``Source`` that knows an example's captions without its picture."""

    def captions(self, index: int) -> list[str]:
        """The captions of example ``index``."""
        ...


def captions_of(source: Source | Records, index: int) -> list[str]:
    """The captions of one example; raises BadRecord for a record that cannot be read."""
    if isinstance(source, CaptionSource):
        return source.captions(index)
    found = source[index]
    return list(found["captions"] if isinstance(found, dict) else found.captions)


def read_captions(source: Source | Records, count: int, bad: list[BadRecord]) -> Iterator[str]:
    """The captions of the first ``count`` examples; those that cannot be read are put among the ``bad``."""
    for index in range(min(count, len(source))):
        try:
            yield from captions_of(source, index)
        except BadRecord as problem:
            bad.append(problem)
