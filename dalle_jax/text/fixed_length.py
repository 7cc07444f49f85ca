"""Rows of one length from the ids of captions that a vocabulary has begun and ended."""

import random
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int32

from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import Draw
from dalle_jax.text.tokenizer import Rngs


class FixedLengthTokenizer(ABC):
    """What CLIP's and BART's tokenizers do alike: begin, pieces, end, then padding; BPE dropout by each one's seed."""

    def __init__(self, length: int, begin: int, end: int, pad: int, keeps_end: bool = True):
        """``keeps_end``: a caption that is cut still has its end in the last place."""
        if length < 2:
            raise UserError(f"text_length: expected at least 2, for the begin and the end of a text, got {length}")
        self.length = length
        self.seen_captions = 0
        self.cut_captions = 0
        self._begin, self._end, self._pad = begin, end, pad
        self._keeps_end = keeps_end

    @property
    def pad_id(self) -> int:
        """The id after a caption's end."""
        return self._pad

    @abstractmethod
    def split(self, caption: str, draw: Draw | None = None, dropout: float = 0.0) -> list[str]:
        """The pieces of a caption."""

    @abstractmethod
    def id_of(self, piece: str) -> int:
        """A piece's id."""

    def encode(self, caption: str) -> Int32[np.ndarray, " T"]:
        """The ids of one caption."""
        return self.encode_batch([caption])[0]

    def encode_batch(
        self, captions: Sequence[str], rngs: Rngs | None = None, dropout: float = 0.0
    ) -> Int32[np.ndarray, "B T"]:
        """The ids of captions, each cut or padded to ``length``; dropout draws from each caption's own of ``rngs``."""
        if dropout > 0 and rngs is None:
            raise ValueError("BPE dropout draws random numbers: give encode_batch rngs, one for each caption")
        if dropout > 0 and rngs is not None:
            draws = [random.Random(int(rng.integers(2**63))).random for rng in rngs]
            texts = [self.split(one, draw, dropout) for one, draw in zip(captions, draws, strict=True)]
        else:
            texts = [self.split(one) for one in captions]
        ids = np.full((len(texts), self.length), self._pad, np.int32)
        for place, pieces in enumerate(texts):
            row = [self._begin, *map(self.id_of, pieces), self._end]
            if len(row) > self.length:
                self.cut_captions += 1
                row = [*row[: self.length - 1], self._end] if self._keeps_end else row[: self.length]
            ids[place, : len(row)] = row
        self.seen_captions += len(texts)
        return ids  # [B T]

    def pieces(self, caption: str) -> list[str]:
        """How a caption is split; not cut."""
        return self.split(caption)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many ids each caption would have if none were cut."""
        return [len(self.split(one)) + 2 for one in captions]
