"""What every data source offers: random access to captioned images, and a name for its contents."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np


class Example(TypedDict):
    """One captioned image. ``captions`` holds at least one caption; ``key`` names the record in reports.

    ``image`` is uint8 [H W 3]; where codes were written ahead there are ``codes`` int32 [h w] in its place, and the
    ``condition`` that goes with them where one was written too: a class, or features [t c] of the caption.
    """

    key: str
    image: NotRequired[np.ndarray]
    codes: NotRequired[np.ndarray]
    condition: NotRequired[np.ndarray]
    captions: list[str]


@runtime_checkable
class Source(Protocol):
    """A finite list of examples. ``source[i]`` is a pure function of i and of the source's configuration."""

    def __len__(self) -> int:
        """Examples in one epoch."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Example ``index``."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever the examples or their order would: saved with checkpoints and compared on resume."""
        ...


@runtime_checkable
class EpochSource(Source, Protocol):
    """A source whose examples change from epoch to epoch (crops, captions). ``source[i]`` is that of epoch 0."""

    def example(self, index: int, epoch: int) -> Example:
        """Example ``index`` as epoch 0, 1, … shows it: a pure function of both and of the source's configuration."""
        ...
