"""Bounds on reading files that others wrote: their kind, their size, and the memory and steps that they may cost.

Every reader of weights, images, metadata, prompts, configs and checkpoints takes its bounds from here. A file may take
``MEMORY_RATIO`` times its size in memory beyond ``FREE_BYTES``, and ``MAX_STEPS`` steps of Python. A reader spends both
from a ``Budget`` before it allocates.
"""

import json
import os
import re
import stat
from typing import Any, BinaryIO

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.sources import MAX_BYTES
from dalle_jax.storage import Place

FREE_BYTES = 64 * 2**20
MEMORY_RATIO = 3
MAX_STEPS = 2_000_000
"""Largest number of objects in a file that Python reads one by one. Published weights have some tens per tensor."""
MAX_TEXT_BYTES = 64 * 2**20
"""Largest vocabulary, JSON or other small file of a model."""

_KINDS = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
_SURROGATE = re.compile(rb"\\\0?u\0?[dD]\0?[89a-fA-F]")  # in UTF-16 too
_WIDE = re.compile(rb"[\xf0-\xff]")
_JSON_BYTES = {b"[": 100, b"{": 300, b":": 180, b",": 48, b'"': 28}
"""Bytes of memory that CPython takes per character of JSON: lists, dicts, their entries, numbers, half of a string."""


class OverBudget(ValueError):
    """Content that would take more memory or steps than its size justifies."""


class Budget:
    """The memory and the steps that are left for reading a file of ``size`` bytes. The file itself counts once."""

    def __init__(self, size: int, steps: int | None = None):
        self.memory = FREE_BYTES + (MEMORY_RATIO - 1) * size
        self.steps = MAX_STEPS if steps is None else steps
        self._limits = (self.memory, self.steps)

    def spend(self, memory: int, steps: int = 1) -> None:
        """Count memory in bytes and steps. Raise ``OverBudget`` when either is used up."""
        self.memory -= memory
        self.steps -= steps
        if self.memory < 0:
            raise OverBudget(f"content that takes more than {self._limits[0]} bytes of memory")
        if self.steps < 0:
            raise OverBudget(f"content of more than {self._limits[1]} steps")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a local file for reading. Raise ``UserError`` for a pipe, a device, a socket or a folder.

    Opening a pipe would wait for a writer, and a device may have no end.
    """
    number = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    kind = stat.S_IFMT(os.fstat(number).st_mode)
    if kind != stat.S_IFREG:
        os.close(number)
        raise UserError(f"{os.fspath(path)}: expected a file, got {_KINDS.get(kind, 'a device')}")
    return open(number, "rb")


def read_file(place: str | Place, most: int = MAX_TEXT_BYTES) -> bytes:
    """Read a file, here or behind a URL. Raise ``UserError`` if it has more than ``most`` bytes or is not a file."""
    place = storage.place(place)
    if storage.is_remote(place):
        _check_size(place, storage.size_and_version(place)[0], most)
        return storage.read(place)
    with open_file(place) as stream:
        _check_size(place, os.fstat(stream.fileno()).st_size, most)
        content = stream.read(most + 1)  # a file of /proc has no size
    _check_size(place, len(content), most)
    return content


def read_text_file(place: str | Place, most: int = MAX_BYTES) -> str:
    """Read a small text file. Raise ``UserError`` if it is not UTF-8, or for the reasons of ``read_file``."""
    content = read_file(place, most)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{place}: expected text in UTF-8, got another encoding at byte {error.start}") from error


def _check_size(place: Place, size: int, most: int) -> None:
    if size > most:
        raise UserError(f"{place}: expected a file of at most {most:,} bytes, got {size:,}")


def parse_json(content: bytes, budget: Budget | None = None, unique_names: bool = False) -> object:
    """Parse JSON. Raise ``ValueError`` if it is broken or would exceed ``budget``.

    By default the budget is that of a file with this content. Half of a surrogate pair is an error too: text with it
    cannot be written. ``unique_names`` refuses an object that has a name twice.
    """
    (budget or Budget(len(content))).spend(_json_memory(content))
    try:
        found = json.loads(
            content.decode(json.detect_encoding(content)), object_pairs_hook=_unique if unique_names else None
        )
        if _SURROGATE.search(content):
            json.dumps(found, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"half of a surrogate pair, {error.object[error.start]!a}") from error
    except RecursionError as error:
        raise ValueError("brackets nested too deeply") from error
    return found


def parse_object(content: bytes) -> dict[str, Any]:
    """Parse a JSON object. Raise ``ValueError`` for any other content."""
    found = parse_json(content)
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object, got {type(found).__name__}")
    return found


def _json_memory(content: bytes) -> int:
    """Return an upper bound of the memory of parsed JSON, in bytes."""
    width = 1 if content.isascii() else 4 if _WIDE.search(content) else 2
    return width * len(content) + sum(cost * content.count(letter) for letter, cost in _JSON_BYTES.items())


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("one name twice")
    return dict(pairs)


def check_text(text: str, name: str) -> None:
    """Raise ``UserError`` for half of a surrogate pair, which Python makes of bytes that are not UTF-8.

    Such a text cannot be written. ``name`` is the field's name.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        got = f"{text[error.start]!a} at character {error.start}"
        raise UserError(f"{name}: expected text in UTF-8, got {got}") from error
