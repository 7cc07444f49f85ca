"""GLIDE's text tokenizer: GPT-2's byte-level BPE on lower-case text, without begin and end (arXiv 2112.10741).

A text is truncated or filled with the id of ``<|endoftext|>``, the last of the vocabulary. The network replaces filled
positions by learned vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Int32

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.storage import Place
from dalle_jax.text.byte_pairs import GPT2_WORDS, Draw, Merges, Pair, bytes_to_letters, letters_to_text
from dalle_jax.text.fixed_length import FixedLengthTokenizer
from dalle_jax.text.vocabulary_files import MERGES, VOCABULARY, read_bpe_files, read_merges, read_vocabulary
from dalle_jax.untrusted import read_file

END = "<|endoftext|>"
ENCODER, PAIRS = "encoder.json", "vocab.bpe"
"""Names of the files in GLIDE's package, gzipped or not; their content is that of vocab.json and merges.txt."""


@dataclass(frozen=True)
class GlideBpe:
    """GLIDE's BPE. The file is ``encoder.json`` with ``vocab.bpe`` next to it, or ``vocab.json`` with ``merges.txt``.

    Both may be gzipped (``.gz``).
    """

    NAMES: ClassVar[tuple[str, ...]] = (VOCABULARY, MERGES)
    published: ClassVar[bool] = True

    def files(self, path: str) -> Mapping[str, bytes]:
        """Read both files, unchanged."""
        place = storage.place(path)
        if not place.name.startswith(ENCODER):
            return read_bpe_files(path, "GLIDE")
        pairs = pairs_file(place)
        for file in (place, pairs):
            if not file.is_file():
                raise UserError(f"expected GLIDE's {place.name} with {pairs.name} next to it, found none at {file}")
        return {VOCABULARY: read_file(place), MERGES: read_file(pairs)}

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "GlideTokenizer":
        """Build the tokenizer from its vocabulary files, with rows of ``length`` ids."""
        if missing := ", ".join(sorted({VOCABULARY, MERGES} - set(files))):
            raise UserError(f"expected GLIDE's {VOCABULARY} and {MERGES} among {sorted(files)}, found no {missing}")
        return GlideTokenizer(read_vocabulary(files[VOCABULARY], "GLIDE", (END,)), read_merges(files[MERGES]), length)


def pairs_file(place: Place) -> Place:
    """Return the merges' file next to an ``encoder.json``."""
    return place.parent / place.name.replace(ENCODER, PAIRS)


class GlideTokenizer(FixedLengthTokenizer):
    """A ``TextTokenizer`` for GLIDE. ``<|endoftext|>`` in a caption's text is split like other text."""

    def __init__(self, ids: dict[str, int], pairs: Sequence[Pair], length: int):
        super().__init__(length, ids[END], ids[END], ids[END], keeps_end=False)
        self._merges, self._ids = Merges(pairs), ids
        self._pieces = {number: piece for piece, number in ids.items()}

    @property
    def vocab_size(self) -> int:
        """One more than the largest id."""
        return 1 + max(self._pieces)

    def framed(self, ids: list[int]) -> list[int]:
        """Return the ids of the text alone."""
        return ids

    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """Split a lower-cased caption into pieces."""
        words = map(bytes_to_letters, GPT2_WORDS.findall(caption.lower()))
        return [piece for word in words for piece in self._merges.split(word, draw, dropout)]

    def id_of(self, piece: str) -> int:
        """Return the id of a piece. Raise UserError for a piece that is not in the vocabulary."""
        if piece not in self._ids:
            raise UserError(f"{VOCABULARY}: expected every byte and merge of {MERGES}, found no {piece!r}")
        return self._ids[piece]

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """Return the text of ids up to the first filled position."""
        numbers = list(map(int, ids))
        text = numbers[: numbers.index(self._end)] if self._end in numbers else numbers
        return letters_to_text("".join(self._pieces.get(one, "") for one in text))
