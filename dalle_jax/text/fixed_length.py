"""Base class of CLIP's and BART's tokenizers. Captions become rows of one length: begin, pieces, end, padding."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import Draw
from dalle_jax.text.tokenizer import Rngs


class FixedLengthTokenizer(ABC):
    """A ``TextTokenizer`` that adds begin and end ids; subclasses split a caption into pieces."""

    def __init__(self, length: int, begin: int, end: int, pad: int, keeps_end: bool = True):
        """Store the length of rows and the special ids.

        With ``keeps_end``, the last id of a truncated caption is the end id; without it, the end id is cut off.
        """
        if length < 2:
            raise UserError(f"text_length: expected at least 2, for the begin and the end of a text, got {length}")
        self.length = length
        self.encoded_captions = 0
        self.truncated_captions = 0
        self._begin, self._end, self._pad = begin, end, pad
        self._keeps_end = keeps_end

    @property
    def pad_id(self) -> int:
        """Return the id that fills a row after its caption."""
        return self._pad

    @property
    def unknown_id(self) -> int | None:
        """Return None, since the vocabularies of byte-level BPE have an id for every byte."""
        return None

    @abstractmethod
    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """Split a caption into pieces. With ``draw``, each BPE merge is skipped with probability ``dropout``."""

    @abstractmethod
    def id_of(self, piece: str) -> int:
        """Return a piece's id."""

    def framed(self, ids: list[int]) -> list[int]:
        """Return the ids of a caption's pieces between begin and end."""
        return [self._begin, *ids, self._end]

    def encode(self, caption: str) -> Int32[np.ndarray, " T"]:
        """Encode one caption."""
        return self.encode_batch([caption])[0]

    def encode_batch(
        self, captions: Sequence[str], rngs: Rngs | None = None, dropout: float = 0.0
    ) -> Int32[np.ndarray, "B T"]:
        """Encode captions, each truncated or padded to ``length``.

        ``dropout`` is the probability of skipping a BPE merge. ``rngs`` has one random generator for each caption,
        which draws the merges to skip.
        """
        if dropout > 0 and rngs is None:
            raise ValueError("expected rngs for BPE dropout, one generator for each caption, got none")
        if dropout > 0 and rngs is not None:
            draws = [random.Random(int(rng.integers(2**63))).random for rng in rngs]
            texts = [self.split(one, draw, dropout) for one, draw in zip(captions, draws, strict=True)]
        else:
            texts = [self.split(one) for one in captions]
        ids = np.full((len(texts), self.length), self._pad, np.int32)
        for place, pieces in enumerate(texts):
            row = self.framed(list(map(self.id_of, pieces)))
            if len(row) > self.length:
                self.truncated_captions += 1
                row = [*row[: self.length - 1], self._end] if self._keeps_end else row[: self.length]
            ids[place, : len(row)] = row
        self.encoded_captions += len(texts)
        return ids  # [B T]

    def pieces(self, caption: str) -> list[str]:
        """Split a caption into pieces, for display; not truncated."""
        return self.split(caption)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Count each caption's ids before truncation, begin and end included."""
        return [len(self.framed([0] * len(self.split(one)))) for one in captions]
