"""Captioned images as files hold them: what folders, tars and tables of them offer before anything is decoded."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Record:
    """One image as its encoded bytes, with at least one caption.

    ``key`` names it in reports and is that of no other record of its source; ``about`` is what else the files say of it
    (img2dataset's width, height, similarity, aesthetic score, …), by the names that they use.
    """

    key: str
    image: bytes
    captions: tuple[str, ...]
    about: Mapping[str, Any]


class BadRecord(Exception):
    """A record that cannot be used: the pipeline counts and names it, and goes on with another."""

    def __init__(self, key: str, kind: str, reason: str):
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.kind = kind
        """A word or two that are the same for all records of this fault, such as "duplicate key"."""
        self.reason = reason


@runtime_checkable
class Records(Protocol):
    """A finite list of records with random access. ``records[i]`` is a pure function of i and of the files.

    What is seen to be bad without reading images (a duplicate key, a link in a tar) is no record and has no index: it
    is among the ``problems``. What is found on reading raises BadRecord, every time.
    """

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """What was left out when the list was made."""
        ...

    def __len__(self) -> int:
        """How many there are."""
        ...

    def __getitem__(self, index: int) -> Record:
        """Record ``index``; raises BadRecord for one that cannot be read."""
        ...

    def fingerprint(self) -> str:
        """Changes whenever records or their order would."""
        ...


@runtime_checkable
class Keyed(Protocol):
    """Records whose keys are known without reading them."""

    def key(self, index: int) -> str:
        """The key of record ``index``."""
        ...
