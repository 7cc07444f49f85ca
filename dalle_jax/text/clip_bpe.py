"""CLIP's text tokenizer, from its published vocabulary file (Radford et al. 2021, arXiv:2103.00020, section 2.4).

Ids: 256 letters of bytes, the same at the end of a word, the merges, begin and end: 49,408 with the published file.
"""

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import ftfy
import numpy as np
from jaxtyping import Int32

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import (
    Draw,
    Merges,
    Pair,
    letters,
    read_pairs,
    spelled,
    unpacked,
    unspelled,
    word_pattern,
)
from dalle_jax.text.rows import RowTokenizer

FILE = "bpe_simple_vocab_16e6.txt"
MERGES = 49_152 - 256 - 2
"""Those of the file that CLIP uses; the published one holds five times as many."""
WORD_END = "</w>"


@dataclass(frozen=True)
class ClipBpe:
    """CLIP's BPE. ``captions.file`` is ``bpe_simple_vocab_16e6.txt``, gzipped or not, which comes with any CLIP.

    ``pad``: what follows the end: id 0, as OpenAI's and open_clip's models were trained, or the end again, as Hugging
    Face's files have it. ``lower`` is how CLIP was trained.
    """

    NAMES: ClassVar[tuple[str, ...]] = (f"{FILE}.gz", FILE)
    published: ClassVar[bool] = True
    pad: Literal["zero", "end"] = "zero"
    lower: bool = True

    def files(self, path: str) -> Mapping[str, bytes]:
        """The vocabulary, gzipped or not, as it was found."""
        place = storage.place(path)
        if not place.is_file():
            raise UserError(
                f"captions.file: expected CLIP's vocabulary, {FILE}.gz, found none at {place}; "
                "it lies in OpenAI's CLIP repository and in the packages of open_clip_torch"
            )
        content = place.read_bytes()
        return {FILE + (".gz" if content[:2] == b"\x1f\x8b" else ""): content}

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "ClipTokenizer":
        """The tokenizer of that vocabulary."""
        for name in self.NAMES:
            if name in files:
                return ClipTokenizer(read_pairs(unpacked(files[name], name), name, MERGES), length, self)
        raise UserError(f"expected {FILE}.gz, CLIP's vocabulary, among {sorted(files)}, found none")


class ClipTokenizer(RowTokenizer):
    """A ``TextTokenizer``. Nothing that a caption says is taken for a begin or an end."""

    def __init__(self, pairs: Sequence[Pair], length: int, config: ClipBpe):
        alphabet = sorted(letters())  # Latin-1's printed ones come first, then those from 256 on: the published order
        pieces = [*alphabet, *(letter + WORD_END for letter in alphabet), *map("".join, pairs)]
        super().__init__(length, len(pieces), len(pieces) + 1, len(pieces) + 1 if config.pad == "end" else 0)
        self._config = config
        self._merges = Merges(pairs, WORD_END)
        self._pieces = pieces
        self._ids = {piece: number for number, piece in enumerate(pieces)}

    @property
    def vocab_size(self) -> int:
        """How many ids there are; the last two are begin and end."""
        return len(self._pieces) + 2

    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """The pieces of a caption, mended as CLIP's training text was: encodings, HTML twice, spaces, case."""
        text = " ".join(html.unescape(html.unescape(ftfy.fix_text(caption))).split())
        text = text.lower() if self._config.lower else text
        words = map(spelled, word_pattern(gpt2=False).findall(text))
        return [piece for word in words for piece in self._merges.split(word, draw, dropout)]

    def id_of(self, piece: str) -> int:
        """A piece's id; every piece has one, since every byte has."""
        return self._ids[piece]

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """The text of ids up to the first end; padding of id 0, which is also "!", is told by standing behind it."""
        pieces = []
        for one in map(int, ids):
            if one == self._end:
                break
            if one < len(self._pieces):
                pieces.append(self._pieces[one])
        return unspelled("".join(pieces).replace(WORD_END, spelled(" "))).strip()
