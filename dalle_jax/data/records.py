"""Captioned images as files hold them, before an image is decoded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

Metadata: TypeAlias = Mapping[str, object]
"""Fields of a record other than its image and captions, by the names that the files use."""


@dataclass(frozen=True)
class Record:
    """An encoded image with at least one caption.

    ``key`` names the record in reports and is unique in its source. ``metadata`` holds all other fields of the files,
    such as img2dataset's width, height, similarity and aesthetic score.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    metadata: Metadata


class BadRecord(Exception):
    """A record that cannot be used. The loader counts and reports it, and uses a different record instead."""

    def __init__(self, key: str, kind: str, reason: str):
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.kind = kind
        """A short name of the fault, such as "duplicate key", by which records are counted."""
        self.reason = reason


@runtime_checkable
class Records(Protocol):
    """A finite list of records with random access. ``records[i]`` is a pure function of i and of the files.

    Some faults are found without reading an image: a duplicate key, a link in a tar. A record with such a fault has no
    index and is listed in ``problems``. Reading a record with any other fault raises BadRecord, each time.
    """

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """Return the records that were left out when the files were listed."""
        ...

    def __len__(self) -> int:
        """Return the number of records."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Read record ``index``. Raises BadRecord if it cannot be used."""
        ...

    def fingerprint(self) -> str:
        """Return a digest that changes when the records or their order change."""
        ...


@runtime_checkable
class Keyed(Protocol):
    """Records that know their keys without reading an image."""

    def key(self, index: int) -> str:
        """Return the key of record ``index``."""
        ...
