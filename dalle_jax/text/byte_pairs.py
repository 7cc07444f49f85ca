"""Byte-level BPE as GPT-2 introduced it (Radford et al. 2019, section 2.2), which CLIP and BART share.

A word's UTF-8 bytes are written with 256 letters that can be printed; neighbours are then merged in the order in which
the merges were learned.
"""

import re
import unicodedata
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from itertools import pairwise

from dalle_jax.config.errors import UserError

Draw = Callable[[], float]
Pair = tuple[str, str]
MOST_BYTES = 64 * 2**20
"""Of a vocabulary file, once it is unpacked."""
MOST_LETTERS = 1024
"""Of a word; a longer one is taken in parts, since merging takes the square of its length."""
MOST_REMEMBERED = 100_000


@cache
def letters() -> tuple[str, ...]:
    """The letter of each byte 0 … 255: itself where Latin-1 prints it, else the next one from 256 on."""
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printed else next(spare)) for byte in range(256))


def spelled(word: str) -> str:
    """A word's bytes as letters."""
    table = letters()
    return "".join(table[byte] for byte in word.encode("utf-8", errors="replace"))


def unspelled(text: str) -> str:
    """Letters back to the text of their bytes; a part of a character becomes U+FFFD."""
    known = {letter: byte for byte, letter in enumerate(letters())}
    return bytes(known[letter] for letter in text if letter in known).decode("utf-8", errors="replace")


@cache
def word_pattern(gpt2: bool) -> re.Pattern[str]:
    """What finds the words of a text: GPT-2's keep the space before them, CLIP's leave spaces out and part digits.

    Letters are Unicode's L, numbers its N, which ``re`` has no names for: ``\\w`` is both and "_". The library that
    CLIP's pattern was written for leaves out the iota below a letter, U+0345, when it takes no notice of case.
    """
    number = "".join(_range(*run) for run in _runs("N"))
    letter, other = rf"[^\W_{number}]", r"(?:_|[^\w\s])"
    endings = r"'(?:s|t|re|ve|m|ll|d)"
    if gpt2:
        return re.compile(rf"{endings}| ?{letter}+| ?[{number}]+| ?{other}+|\s+(?!\S)|\s+")
    return re.compile(rf"{endings}|{letter}+|[{number}]|(?:(?!\u0345){other})+", re.IGNORECASE)


def _runs(category: str) -> Iterator[tuple[int, int]]:
    """First and last of each run of characters whose category begins so, in the first two planes."""
    start = None
    for place in range(0x20001):
        inside = place < 0x20000 and unicodedata.category(chr(place)).startswith(category)
        if inside and start is None:
            start = place
        if not inside and start is not None:
            yield start, place - 1
            start = None


def _range(first: int, last: int) -> str:
    return f"\\U{first:08x}-\\U{last:08x}"


class Merges:
    """Merges in the order in which they were learned. Words that were split are remembered; threads may share one."""

    def __init__(self, pairs: Sequence[Pair], end: str = ""):
        """``end`` is put behind a word's last letter, so that pieces know that a word ends with them."""
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._end = end
        self._remembered: dict[str, tuple[str, ...]] = {}

    def split(self, word: str, draw: Draw | None = None, dropout: float = 0.0) -> tuple[str, ...]:
        """The pieces of a word of letters; with ``draw`` each merge is skipped with chance ``dropout`` each time."""
        if draw is None and word in self._remembered:
            return self._remembered[word]
        parts = [word[at : at + MOST_LETTERS] for at in range(0, len(word), MOST_LETTERS)]
        symbols = [[*part] for part in parts]
        symbols[-1][-1] += self._end
        if draw is not None:
            return tuple(piece for part in symbols for piece in self._drop(part, draw, dropout))
        pieces = tuple(piece for part in symbols for piece in self._merge(part))
        if len(self._remembered) < MOST_REMEMBERED:
            self._remembered[word] = pieces
        return pieces

    def _merge(self, symbols: list[str]) -> list[str]:
        """Join every occurrence, from left to right, of the pair that was learned first, over and over."""
        last = len(self._ranks)
        while len(symbols) > 1:
            pair = min(pairwise(symbols), key=lambda one: self._ranks.get(one, last))
            if pair not in self._ranks:
                break
            joined, place = [], 0
            while place < len(symbols):
                width = 2 if tuple(symbols[place : place + 2]) == pair else 1
                joined.append("".join(symbols[place : place + width]))
                place += width
            symbols = joined
        return symbols

    def _drop(self, symbols: list[str], draw: Draw, dropout: float) -> list[str]:
        """BPE dropout (Provilkov et al. 2020, arXiv:1910.13267): as ``_merge``, but each pair may be passed over."""
        last = len(self._ranks)
        while len(symbols) > 1:
            best, place = last, -1
            for at in range(len(symbols) - 1):
                rank = self._ranks.get((symbols[at], symbols[at + 1]), last)
                if rank < best and draw() >= dropout:
                    best, place = rank, at
            if place < 0:
                break
            symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
        return symbols


def unpacked(content: bytes, name: str) -> str:
    """The text of a vocabulary file, be it gzipped. Raises UserError for what is none, or too large."""
    try:
        if content[:2] == b"\x1f\x8b":
            reader = zlib.decompressobj(wbits=31)
            content = reader.decompress(content, MOST_BYTES + 1)
            if not reader.eof and len(content) <= MOST_BYTES:
                raise UserError(f"{name}: expected a whole gzip file, got one that ends early")
        if len(content) > MOST_BYTES:
            raise UserError(f"{name}: expected at most {MOST_BYTES} bytes of text, got more")
        return content.decode("utf-8")
    except (zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{name}: expected UTF-8 text, plain or gzipped, got something else: {error}") from error


def read_pairs(text: str, name: str, most: int | None = None) -> list[Pair]:
    """The first ``most`` merges of a file: a line that says what it is, then two pieces on a line."""
    lines = text.split("\n")
    first = int("#version" in lines[0])
    pairs = []
    for number, line in enumerate(lines[first:][:most], first + 1):
        pieces = line.split(" ")
        if not line and number >= len(lines):
            break
        if len(pieces) != 2 or not all(pieces):
            raise UserError(f"{name}:{number}: expected two pieces with a space between them, got {line[:80]!r}")
        pairs.append((pieces[0], pieces[1]))
    if not pairs:
        raise UserError(f"{name}: expected a merge on each line, got none")
    return pairs
