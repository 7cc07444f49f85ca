"""CLIP's text tokenizer, from its published vocabulary file (Radford et al. 2021, arXiv:2103.00020, section 2.4).

Ids: 256 letters of bytes, the same at the end of a word, the merges, begin and end: 49,408 with the published file.
Hugging Face publishes the same ids in vocab.json and the merges in merges.txt.
"""

import html
import unicodedata
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
from dalle_jax.text.fixed_length import FixedLengthTokenizer
from dalle_jax.text.vocabulary_files import MERGES, VOCABULARY, both_files, read_merges, read_vocabulary

FILE = "bpe_simple_vocab_16e6.txt"
MOST_MERGES = 49_152 - 256 - 2
"""Those of the file that CLIP uses; the published one holds five times as many."""
WORD_END = "</w>"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class ClipBpe:
    """CLIP's BPE. ``captions.file`` is ``bpe_simple_vocab_16e6.txt``, gzipped or not, or Hugging Face's ``vocab.json``.

    The first comes with any CLIP; beside the second lies ``merges.txt``. ``pad``: what follows the end: id 0, as
    OpenAI's and open_clip's models were trained, or the end again, as Hugging Face's files have it. ``mends``: "ftfy"
    puts right encodings and HTML as CLIP's training text was, "nfc" composes characters and no more, as Hugging Face
    does. ``lower`` is how CLIP was trained.
    """

    NAMES: ClassVar[tuple[str, ...]] = (f"{FILE}.gz", FILE, VOCABULARY, MERGES)
    published: ClassVar[bool] = True
    pad: Literal["zero", "end"] = "zero"
    mends: Literal["ftfy", "nfc"] = "ftfy"
    lower: bool = True

    def files(self, path: str) -> Mapping[str, bytes]:
        """The vocabulary, gzipped or not, as it was found."""
        place = storage.place(path)
        if place.suffix == ".json":
            return both_files(path, "CLIP")
        if not place.is_file():
            raise UserError(
                f"captions.file: expected CLIP's vocabulary, {FILE}.gz, found none at {place}; "
                "it lies in OpenAI's CLIP repository and in the packages of open_clip_torch"
            )
        content = place.read_bytes()
        return {FILE + (".gz" if content[:2] == b"\x1f\x8b" else ""): content}

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "ClipTokenizer":
        """The tokenizer of that vocabulary."""
        for name in (f"{FILE}.gz", FILE):
            if name in files:
                pairs = read_pairs(unpacked(files[name], name), name, MOST_MERGES)
                return ClipTokenizer(_published_ids(pairs), pairs, length, self)
        if {VOCABULARY, MERGES} <= files.keys():
            ids = read_vocabulary(files[VOCABULARY], "CLIP", (BEGIN, END))
            return ClipTokenizer(ids, read_merges(files[MERGES]), length, self)
        raise UserError(
            f"expected {FILE}.gz, CLIP's vocabulary, or {VOCABULARY} with {MERGES}, among {sorted(files)}, found none"
        )


def _published_ids(pairs: Sequence[Pair]) -> dict[str, int]:
    """The id of every piece, and of begin and end, which are the last two."""
    alphabet = sorted(letters())  # Latin-1's printed ones come first, then those from 256 on: the published order
    pieces = [*alphabet, *(letter + WORD_END for letter in alphabet), *map("".join, pairs), BEGIN, END]
    return {piece: number for number, piece in enumerate(pieces)}


class ClipTokenizer(FixedLengthTokenizer):
    """A ``TextTokenizer``. Nothing that a caption says is taken for a begin or an end."""

    def __init__(self, ids: dict[str, int], pairs: Sequence[Pair], length: int, config: ClipBpe):
        super().__init__(length, ids[BEGIN], ids[END], ids[END] if config.pad == "end" else 0)
        self._config = config
        self._merges = Merges(pairs, WORD_END)
        self._ids = ids
        self._pieces = {number: piece for piece, number in ids.items()}

    @property
    def vocab_size(self) -> int:
        """One more than the largest id; as published the last two are begin and end."""
        return 1 + max(self._pieces)

    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """The pieces of a caption, mended first."""
        if self._config.mends == "ftfy":
            caption = html.unescape(html.unescape(ftfy.fix_text(caption)))
        else:
            caption = unicodedata.normalize("NFC", caption.encode("utf-8", errors="replace").decode("utf-8"))
        text = " ".join(caption.split())
        text = text.lower() if self._config.lower else text
        words = map(spelled, word_pattern(gpt2=False).findall(text))
        return [piece for word in words for piece in self._merges.split(word, draw, dropout)]

    def id_of(self, piece: str) -> int:
        """A piece's id; one that a vocabulary lacks is the end, as Hugging Face has it. The published lacks none."""
        return self._ids.get(piece, self._end)

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """The text of ids up to the first end; padding of id 0, which is also "!", is told by standing behind it."""
        pieces = []
        for one in map(int, ids):
            if one == self._end:
                break
            if one != self._begin:
                pieces.append(self._pieces.get(one, ""))
        return unspelled("".join(pieces).replace(WORD_END, spelled(" "))).strip()
