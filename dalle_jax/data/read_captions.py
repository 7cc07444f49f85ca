"""The captions of a source, without its pictures being decoded or drawn."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from dalle_jax.data.captions import Blend
from dalle_jax.data.mixture import Mixture
from dalle_jax.data.opening import Openable
from dalle_jax.data.records import BadRecord, Record, Records
from dalle_jax.data.schema import Source


@runtime_checkable
class CaptionSource(Protocol):
    """A ``Source`` that knows an example's captions without its picture."""

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
    config: Openable | Mixture, count: int, bad: list[BadRecord], blend: Blend | None = None
) -> Iterator[str]:
    """The captions of the first ``count`` examples; those that cannot be read are put among the ``bad``.

    Of a mixture they are the first of each source, by its weight.
    """
    parts = (
        [(1.0, config)]
        if not isinstance(config, Mixture)
        else [*zip(config.weights, config.sources().values(), strict=True)]
    )
    whole = sum(weight for weight, _ in parts)
    for weight, one in parts:
        source = one.open()
        for index in range(min(round(count * weight / whole), len(source))):
            try:
                yield from captions_of(source, index, blend)
            except BadRecord as problem:
                bad.append(problem)
