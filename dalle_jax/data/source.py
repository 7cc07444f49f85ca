"""Protocols of a data source: random access to captioned images, and a fingerprint of its contents."""

from typing import NotRequired, Protocol, TypedDict, runtime_checkable

import numpy as np

from dalle_jax.data.precomputed.embedding_record import CaptionVectors


class Example(TypedDict):
    """A captioned image with at least one caption. ``key`` names the record in reports.

    ``image`` is uint8 [H W 3]. A pair also has a ``rejected`` image, to which ``image`` is preferred. Data that
    ``encode`` wrote has ``codes`` int32 [h w] instead, perhaps with a ``condition``: a class, or features [t c] of the
    caption. Data of CLIP embeddings has an ``image_vector`` float16 [E], and in ``texts`` the embedding of each
    caption.
    """

    key: str
    image: NotRequired[np.ndarray]
    rejected: NotRequired[np.ndarray]
    codes: NotRequired[np.ndarray]
    condition: NotRequired[np.ndarray]
    image_vector: NotRequired[np.ndarray]
    texts: NotRequired[list[CaptionVectors]]
    captions: list[str]


@runtime_checkable
class Source(Protocol):
    """A finite list of examples. ``source[i]`` is a pure function of i and of the source's config."""

    def __len__(self) -> int:
        """Return the number of examples in one epoch."""
        ...

    def __getitem__(self, index: int) -> Example:
        """Return one example."""
        ...

    def fingerprint(self) -> str:
        """Return a hash, as text, that changes with the examples or their order. A resumed run compares it."""
        ...


@runtime_checkable
class EpochSource(Source, Protocol):
    """A source whose examples change from epoch to epoch (crops, captions). ``source[i]`` is the example of epoch 0."""

    def example(self, index: int, epoch: int) -> Example:
        """Return example ``index`` as it is in ``epoch``, counted from 0.

        It is a pure function of both and of the source's config.
        """
        ...
