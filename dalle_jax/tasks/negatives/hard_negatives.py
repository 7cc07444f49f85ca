"""Hard negatives of a batch: wrong captions that differ from the right one in a word or two, and near-by examples."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import UInt8


class Neighbour(NamedTuple):
    """An example made from another one: its image, its caption, and all its captions."""

    image: UInt8[np.ndarray, "S S 3"]
    caption: str
    captions: Sequence[str]


@runtime_checkable
class NegativeCounts(Protocol):
    """The numbers of hard negatives."""

    @property
    def texts(self) -> int:
        """The number of wrong captions of each caption."""
        ...

    @property
    def images(self) -> int:
        """The number of neighbours of each example."""
        ...

    @property
    def blends(self) -> int:
        """The number of images of each example that no caption describes."""
        ...


@runtime_checkable
class HardNegatives(NegativeCounts, Protocol):
    """A maker of hard negatives, ready to read captions. Its results depend on its arguments alone."""

    def wrong_captions(self, caption: str, seed: int) -> list[str]:
        """Return ``texts`` captions that describe other images. An empty text stands for one that was not found."""
        ...

    def blended(self, caption: str, size: int, seed: int) -> list[UInt8[np.ndarray, "S S 3"]]:
        """Return ``blends`` images of ``size`` pixels a side that are wrong for each caption of the example."""
        ...

    def neighbours(self, caption: str, size: int, seed: int) -> list[Neighbour]:
        """Return ``images`` examples whose images have ``size`` pixels a side. Raise ``UserError`` if it has none."""
        ...
