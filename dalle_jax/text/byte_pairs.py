"""Byte-level BPE of GPT-2 (Radford et al. 2019, section 2.2), which CLIP and BART use too.

Each byte of a word's UTF-8 encoding is written as a printable letter. Neighbouring symbols are then merged in the order
in which the merges were learned.
"""

import zlib
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise

import regex

from dalle_jax.config.errors import UserError

Draw = Callable[[], float]
"""Function that returns a random number, uniform in [0, 1), at each call."""
Pair = tuple[str, str]
MAX_BYTES = 64 * 2**20
"""Largest size of a vocabulary file, in bytes after decompression."""
MAX_LETTERS = 1024
"""Largest length of a word. Longer words are split into parts of this length, since merging takes quadratic time."""
MAX_CACHED = 100_000

GPT2_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+")
"""GPT-2's pattern of a word (encoder.py), which BART uses too. A word includes the space before it."""
CLIP_WORDS = regex.compile(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+", regex.IGNORECASE)
"""CLIP's pattern of a word (simple_tokenizer.py), without the special tokens of the original. Each digit is a word."""


@cache
def byte_letters() -> tuple[str, ...]:
    """Return the letter for each byte 0 … 255.

    It is the byte's own Latin-1 character if that is printable. The other bytes get U+0100, U+0101, … in order.
    """
    printed = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    spare = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printed else next(spare)) for byte in range(256))


def bytes_to_letters(word: str) -> str:
    """Write the UTF-8 bytes of a word as letters."""
    table = byte_letters()
    return "".join(table[byte] for byte in word.encode("utf-8", errors="replace"))


def letters_to_text(letters: str) -> str:
    """Decode letters to the text of their bytes. An incomplete character becomes U+FFFD."""
    known = {letter: byte for byte, letter in enumerate(byte_letters())}
    return bytes(known[letter] for letter in letters if letter in known).decode("utf-8", errors="replace")


class Merges:
    """BPE merges in the order in which they were learned, with a cache of split words. Thread-safe."""

    def __init__(self, pairs: Sequence[Pair], end: str = ""):
        """Store the merges.

        ``end`` is appended to a word's last letter. A piece at the end of a word therefore differs from the same piece
        inside.
        """
        self._ranks = {pair: rank for rank, pair in enumerate(pairs)}
        self._end = end
        self._cache: dict[str, tuple[str, ...]] = {}

    def split(self, word: str, draw: Draw | None = None, dropout: float = 0.0) -> tuple[str, ...]:
        """Split a word, written as letters, into pieces.

        With ``draw``, each merge is skipped with probability ``dropout``.
        """
        if draw is None and word in self._cache:
            return self._cache[word]
        parts = [word[at : at + MAX_LETTERS] for at in range(0, len(word), MAX_LETTERS)]
        symbols = [[*part] for part in parts]
        symbols[-1][-1] += self._end
        if draw is not None:
            return tuple(piece for part in symbols for piece in self._merge_with_dropout(part, draw, dropout))
        pieces = tuple(piece for part in symbols for piece in self._merge(part))
        if len(self._cache) < MAX_CACHED:
            self._cache[word] = pieces
        return pieces

    def _merge(self, symbols: list[str]) -> list[str]:
        """Apply the merges in the order in which they were learned, each to all occurrences of its pair."""
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

    def _merge_with_dropout(self, symbols: list[str], draw: Draw, dropout: float) -> list[str]:
        """Merge one pair at a time and skip merges at random: BPE dropout (Provilkov et al. 2020, arXiv:1910.13267)."""
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


def read_text(content: bytes, name: str) -> str:
    """Decode a vocabulary file, plain or gzipped. Raises ``UserError`` if it is not UTF-8 text or too large."""
    try:
        if content[:2] == b"\x1f\x8b":
            reader = zlib.decompressobj(wbits=31)
            content = reader.decompress(content, MAX_BYTES + 1)
            if not reader.eof and len(content) <= MAX_BYTES:
                raise UserError(f"{name}: expected a whole gzip file, got one that ends early")
        if len(content) > MAX_BYTES:
            raise UserError(f"{name}: expected at most {MAX_BYTES} bytes of text, got more")
        return content.decode("utf-8")
    except (zlib.error, UnicodeDecodeError) as error:
        raise UserError(f"{name}: expected UTF-8 text, plain or gzipped, got something else: {error}") from error


def parse_merges(text: str, name: str, limit: int | None = None) -> list[Pair]:
    """Parse the first ``limit`` merges of a file: an optional "#version" line, then two pieces on each line."""
    lines = text.split("\n")
    first = int("#version" in lines[0])
    pairs = []
    for number, line in enumerate(lines[first:][:limit], first + 1):
        pieces = line.split(" ")
        if not line and number >= len(lines):
            break
        if len(pieces) != 2 or not all(pieces):
            raise UserError(f"{name}:{number}: expected two pieces with a space between them, got {line[:80]!r}")
        pairs.append((pieces[0], pieces[1]))
    if not pairs:
        raise UserError(f"{name}: expected a merge on each line, got none")
    return pairs
