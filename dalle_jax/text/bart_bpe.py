"""BART's text tokenizer, from vocab.json and merges.txt (Lewis et al. 2019, arXiv:1910.13461), and min-dalle's of it.

DALL·E mini reads captions with BART's: byte-level BPE, <s> before and </s> after, padding of id 1. min-dalle 0.4 wrote
its own for the same files: emoji become their names, the text is lower-cased and what is not ASCII is left out, words
are parted at spaces alone and each has one before it, and a caption that is cut loses its </s>.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Int32

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import Draw, Merges, spelled, unspelled, word_pattern
from dalle_jax.text.dalle_mini_captions import WORDS, cleaner
from dalle_jax.text.fixed_length import FixedLengthTokenizer
from dalle_jax.text.vocabulary_files import MERGES, VOCABULARY, both_files, read_merges, read_vocabulary

BEGIN, PAD, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
MASK = "<mask>"
SPACE = spelled(" ")


@dataclass(frozen=True)
class BartBpe:
    """BART's BPE. ``captions.file`` is its ``vocab.json``; ``merges.txt`` lies beside it.

    ``reading``: "bart", as DALL·E mini was trained, or "min_dalle", as min-dalle reads the same files (needs the
    package ``emoji``). ``lower`` lower-cases first. ``cleans`` "dalle_mini" is what DALL·E mini and mega do to captions
    before they read them (needs the packages ``emoji`` and ``unidecode``); it splits hashtags where
    ``enwiki-words-frequency.txt`` lies beside ``vocab.json``.
    """

    NAMES: ClassVar[tuple[str, ...]] = (VOCABULARY, MERGES, WORDS)
    published: ClassVar[bool] = True
    reading: Literal["bart", "min_dalle"] = "bart"
    lower: bool = False
    cleans: Literal["nothing", "dalle_mini"] = "nothing"

    def files(self, path: str) -> Mapping[str, bytes]:
        """Both files, and that of frequent words where there is one and it is used."""
        found, words = both_files(path, "BART"), storage.place(path).parent / WORDS
        return found | ({WORDS: words.read_bytes()} if self.cleans == "dalle_mini" and words.is_file() else {})

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "BartTokenizer":
        """The tokenizer of both files."""
        if missing := ", ".join(sorted({VOCABULARY, MERGES} - set(files))):
            raise UserError(f"expected BART's {VOCABULARY} and {MERGES} among {sorted(files)}, found no {missing}")
        ids = read_vocabulary(files[VOCABULARY], "BART", (BEGIN, PAD, END, UNKNOWN))
        clean = cleaner(files.get(WORDS)) if self.cleans == "dalle_mini" else None
        return BartTokenizer(ids, Merges(read_merges(files[MERGES])), length, self, clean)


class BartTokenizer(FixedLengthTokenizer):
    """A ``TextTokenizer``. Nothing that a caption says is taken for a begin or an end."""

    def __init__(
        self,
        ids: dict[str, int],
        merges: Merges,
        length: int,
        config: BartBpe,
        clean: Callable[[str], str] | None = None,
    ):
        """``clean`` is what is done to a caption first."""
        super().__init__(length, ids[BEGIN], ids[END], ids[PAD], keeps_end=config.reading == "bart")
        self._config, self._clean = config, clean
        self._merges = merges
        self._ids = ids
        self._unknown = ids[UNKNOWN]
        self._pieces = {number: piece for piece, number in ids.items()}
        self._demojize = _demojize() if config.reading == "min_dalle" else None

    @property
    def vocab_size(self) -> int:
        """One more than the largest id of a caption; <mask>, which stands in none, is left out."""
        return 1 + max(number for piece, number in self._ids.items() if piece != MASK)

    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """The pieces of a caption."""
        text = caption.lower() if self._config.lower else caption
        if self._clean is not None:  # nothing stays nothing: it is what guidance was learned with
            text = self._clean(text) if text.strip() else ""
        if self._demojize is None:
            words = [spelled(word) for word in word_pattern(gpt2=True).findall(text)]
        else:
            text = self._demojize(text, delimiters=("", "")).lower().encode("ascii", errors="ignore").decode()
            words = [SPACE + word for word in text.split(" ") if word]
        return [piece for word in words for piece in self._merges.split(word, draw, dropout)]

    def id_of(self, piece: str) -> int:
        """A piece's id, that of <unk> for one that the vocabulary lacks."""
        return self._ids.get(piece, self._unknown)

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """The text of ids up to the first end."""
        pieces = []
        for one in map(int, ids):
            if one == self._end:
                break
            if one not in (self._begin, self._pad, self._unknown):
                pieces.append(self._pieces.get(one, ""))
        return unspelled("".join(pieces)).strip()


def _demojize() -> Any:
    """The function of the package ``emoji``, which min-dalle names emoji with."""
    try:
        return importlib.import_module("emoji").demojize
    except ModuleNotFoundError as error:
        raise UserError(
            "captions.vocabulary.reading = 'min_dalle': expected the package emoji, found none; "
            "install it: pip install 'dalle-jax[min-dalle]'"
        ) from error
