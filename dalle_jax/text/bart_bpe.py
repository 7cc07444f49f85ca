"""BART's text tokenizer, from vocab.json and merges.txt (Lewis et al. 2019, arXiv:1910.13461), and min-dalle's variant.

DALL·E mini reads captions with BART's byte-level BPE: <s>, pieces, </s>, then padding with id 1. min-dalle 0.4 reads
the same files differently:

- Emoji are replaced by their names, the text is lower-cased, and characters outside ASCII are removed.
- Words are split at spaces only, and each gets a space before it.
- A truncated caption has no </s>.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from jaxtyping import Int32

from dalle_jax import storage
from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.text.byte_pairs import GPT2_WORDS, Draw, Merges, bytes_to_letters, letters_to_text
from dalle_jax.text.dalle_mini_captions import FREQUENCIES, make_cleaner
from dalle_jax.text.fixed_length import FixedLengthTokenizer
from dalle_jax.text.vocabulary_files import MERGES, VOCABULARY, read_bpe_files, read_merges, read_vocabulary
from dalle_jax.untrusted import read_file

BEGIN, PAD, END, UNKNOWN = "<s>", "<pad>", "</s>", "<unk>"
MASK = "<mask>"
SPACE = bytes_to_letters(" ")


@dataclass(frozen=True)
class BartBpe:
    """BART's BPE. ``captions.file`` is its ``vocab.json``, with ``merges.txt`` next to it.

    - ``variant``: "bart", as DALL·E mini was trained, or "min_dalle", as min-dalle reads the same files (needs the
      package ``emoji``).
    - ``lower``: lower-case captions first.
    - ``cleaning``: "dalle_mini" cleans captions as DALL·E mini and mega do (needs the packages ``emoji`` and
      ``unidecode``). It splits hashtags if ``enwiki-words-frequency.txt`` is next to ``vocab.json``.
    """

    NAMES: ClassVar[tuple[str, ...]] = (VOCABULARY, MERGES, FREQUENCIES)
    published: ClassVar[bool] = True
    variant: Literal["bart", "min_dalle"] = "bart"
    lower: bool = False
    cleaning: Literal["none", "dalle_mini"] = "none"

    def files(self, path: str) -> Mapping[str, bytes]:
        """Read the vocabulary files and, if cleaning uses it, the word frequencies."""
        found, frequencies = read_bpe_files(path, "BART"), storage.place(path).parent / FREQUENCIES
        if self.cleaning == "dalle_mini" and frequencies.is_file():
            found[FREQUENCIES] = read_file(frequencies)
        return found

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "BartTokenizer":
        """Build the tokenizer from its vocabulary files, with rows of ``length`` ids."""
        if missing := ", ".join(sorted({VOCABULARY, MERGES} - set(files))):
            raise UserError(
                f"expected BART's {VOCABULARY} and {MERGES} among the vocabulary files {sorted(files)}, "
                f"found no {missing}"
            )
        ids = read_vocabulary(files[VOCABULARY], "BART", (BEGIN, PAD, END, UNKNOWN))
        clean = make_cleaner(files.get(FREQUENCIES)) if self.cleaning == "dalle_mini" else None
        return BartTokenizer(ids, Merges(read_merges(files[MERGES])), length, self, clean)


class BartTokenizer(FixedLengthTokenizer):
    """A ``TextTokenizer`` for BART. "<s>" and "</s>" in a caption are split like other text."""

    def __init__(
        self,
        ids: dict[str, int],
        merges: Merges,
        length: int,
        config: BartBpe,
        clean: Callable[[str], str] | None = None,
    ):
        """Read the vocabulary; ``clean`` is applied to each caption before it is split."""
        super().__init__(length, ids[BEGIN], ids[END], ids[PAD], keeps_end=config.variant == "bart")
        self._config, self._clean = config, clean
        self._merges = merges
        self._ids = ids
        self._unknown = ids[UNKNOWN]
        self._pieces = {number: piece for piece, number in ids.items()}
        self._demojize = _import_demojize() if config.variant == "min_dalle" else None

    @property
    def vocab_size(self) -> int:
        """Return one more than the largest id that a caption can have.

        The id of <mask> is larger, but occurs in no caption.
        """
        return 1 + max(number for piece, number in self._ids.items() if piece != MASK)

    @property
    def unknown_id(self) -> int | None:
        """Return the id of <unk>."""
        return self._unknown

    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """Split a caption into pieces after cleaning it."""
        text = caption.lower() if self._config.lower else caption
        if self._clean is not None:  # an empty caption stays empty, as guidance was trained
            text = self._clean(text) if text.strip() else ""
        if self._demojize is None:
            words = [bytes_to_letters(word) for word in GPT2_WORDS.findall(text)]
        else:
            text = self._demojize(text, delimiters=("", "")).lower().encode("ascii", errors="ignore").decode()
            words = [SPACE + word for word in text.split(" ") if word]
        return [piece for word in words for piece in self._merges.split(word, draw, dropout)]

    def id_of(self, piece: str) -> int:
        """Return a piece's id, or the id of <unk> for a piece that the vocabulary does not have."""
        return self._ids.get(piece, self._unknown)

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """Return the text of ids up to the first </s>."""
        pieces = []
        for one in map(int, ids):
            if one == self._end:
                break
            if one not in (self._begin, self._pad, self._unknown):
                pieces.append(self._pieces.get(one, ""))
        return letters_to_text("".join(pieces)).strip()


def _import_demojize() -> Callable[..., str]:
    """Return the function of the package ``emoji`` that replaces emoji by their names.

    Raises ``UserError`` without it.
    """
    try:
        return importlib.import_module("emoji").demojize
    except ModuleNotFoundError as error:
        raise UserError(
            "captions.vocabulary.variant = 'min_dalle': expected the package emoji, found none; "
            + install_hint("min-dalle")
        ) from error
