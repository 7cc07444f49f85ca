"""CLIP's text tokenizer, from its published vocabulary (Radford et al. 2021, arXiv:2103.00020, section 2.4).

The ids are, in order: 256 letters for bytes, the same 256 letters at the end of a word, the merges, begin and end. The
published file gives 49,408 ids. Hugging Face publishes the same ids as vocab.json and the merges as merges.txt.
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
    CLIP_WORDS,
    Draw,
    Merges,
    Pair,
    byte_letters,
    bytes_to_letters,
    letters_to_text,
    parse_merges,
    read_text,
)
from dalle_jax.text.fixed_length import FixedLengthTokenizer
from dalle_jax.text.vocabulary_files import MERGES, VOCABULARY, read_bpe_files, read_merges, read_vocabulary
from dalle_jax.untrusted import read_file

FILE = "bpe_simple_vocab_16e6.txt"
MAX_MERGES = 49_152 - 256 - 2
"""The number of merges that CLIP uses; the published file has five times as many."""
WORD_END = "</w>"
BEGIN, END = "<|startoftext|>", "<|endoftext|>"


@dataclass(frozen=True)
class ClipBpe:
    """CLIP's BPE. ``captions.file`` is ``bpe_simple_vocab_16e6.txt``, gzipped or not, or Hugging Face's ``vocab.json``.

    OpenAI's CLIP and open_clip include the first file. ``vocab.json`` needs ``merges.txt`` next to it.

    - ``pad``: the id that fills a row after the end id. "zero" is id 0, as OpenAI and open_clip train; "end" repeats
      the end id, as Hugging Face's files do.
    - ``text_fix``: "ftfy" repairs encodings and HTML entities, as for CLIP's training text; "nfc" only composes
      characters, as Hugging Face does.
    - ``lower``: lower-case captions, as CLIP was trained.
    """

    NAMES: ClassVar[tuple[str, ...]] = (f"{FILE}.gz", FILE, VOCABULARY, MERGES)
    published: ClassVar[bool] = True
    pad: Literal["zero", "end"] = "zero"
    text_fix: Literal["ftfy", "nfc"] = "ftfy"
    lower: bool = True

    def files(self, path: str) -> Mapping[str, bytes]:
        """Read the vocabulary files, unchanged, to store them with every checkpoint."""
        place = storage.place(path)
        if place.suffix == ".json":
            return read_bpe_files(path, "CLIP")
        if not place.is_file():
            raise UserError(
                f"captions.file: expected CLIP's vocabulary, {FILE}.gz, found none at {place}; "
                "it is in OpenAI's CLIP repository and in the package open_clip_torch"
            )
        content = read_file(place)
        return {FILE + (".gz" if content[:2] == b"\x1f\x8b" else ""): content}

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "ClipTokenizer":
        """Build the tokenizer from its vocabulary files, with rows of ``length`` ids."""
        for name in (f"{FILE}.gz", FILE):
            if name in files:
                pairs = parse_merges(read_text(files[name], name), name, MAX_MERGES)
                return ClipTokenizer(_published_ids(pairs), pairs, length, self)
        if {VOCABULARY, MERGES} <= files.keys():
            ids = read_vocabulary(files[VOCABULARY], "CLIP", (BEGIN, END))
            return ClipTokenizer(ids, read_merges(files[MERGES]), length, self)
        raise UserError(
            f"expected {FILE}.gz, CLIP's vocabulary, or {VOCABULARY} with {MERGES}, among the vocabulary files "
            f"{sorted(files)}, found none"
        )


def _published_ids(pairs: Sequence[Pair]) -> dict[str, int]:
    """Return piece to id, numbered as in the published vocabulary; begin and end come last."""
    alphabet = sorted(byte_letters())  # published order: Latin-1's printed letters, then those from U+0100 on
    pieces = [*alphabet, *(letter + WORD_END for letter in alphabet), *map("".join, pairs), BEGIN, END]
    return {piece: number for number, piece in enumerate(pieces)}


class ClipTokenizer(FixedLengthTokenizer):
    """A ``TextTokenizer`` for CLIP. The texts of the begin and end tokens in a caption are split like other text."""

    def __init__(self, ids: dict[str, int], pairs: Sequence[Pair], length: int, config: ClipBpe):
        super().__init__(length, ids[BEGIN], ids[END], ids[END] if config.pad == "end" else 0)
        self._config = config
        self._merges = Merges(pairs, WORD_END)
        self._ids = ids
        self._pieces = {number: piece for piece, number in ids.items()}

    @property
    def vocab_size(self) -> int:
        """Return one more than the largest id. The last two ids of the published vocabulary are begin and end."""
        return 1 + max(self._pieces)

    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """Split a caption into pieces after fixing its text."""
        if self._config.text_fix == "ftfy":
            caption = html.unescape(html.unescape(ftfy.fix_text(caption)))
        else:
            caption = unicodedata.normalize("NFC", caption.encode("utf-8", errors="replace").decode("utf-8"))
        text = " ".join(caption.split())
        text = text.lower() if self._config.lower else text
        words = map(bytes_to_letters, CLIP_WORDS.findall(text))
        return [piece for word in words for piece in self._merges.split(word, draw, dropout)]

    def id_of(self, piece: str) -> int:
        """Return a piece's id, or the end id for a missing piece, as Hugging Face does.

        OpenAI's vocabulary has every piece that can occur.
        """
        return self._ids.get(piece, self._end)

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """Return the text of ids up to the first end id.

        Padding is recognised because it comes after the end id: its id 0 also stands for "!".
        """
        pieces = []
        for one in map(int, ids):
            if one == self._end:
                break
            if one != self._begin:
                pieces.append(self._pieces.get(one, ""))
        return letters_to_text("".join(pieces).replace(WORD_END, bytes_to_letters(" "))).strip()
