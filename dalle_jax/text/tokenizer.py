"""The interface of text tokenizers, as tasks and pipelines use them."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

Rngs = Sequence[np.random.Generator]


@runtime_checkable
class TextTokenizer(Protocol):
    """A tokenizer from captions to rows of ``length`` ids, and back.

    It counts the captions that ``encode_batch`` has encoded, and how many of them it truncated.
    """

    length: int
    encoded_captions: int
    truncated_captions: int

    @property
    def vocab_size(self) -> int:
        """Return one more than the largest id that a caption can have."""
        ...

    @property
    def pad_id(self) -> int:
        """Return the id that fills a row after its caption: 0 for SentencePiece and OpenAI's CLIP, 1 for BART."""
        ...

    @property
    def unknown_id(self) -> int | None:
        """Return the id of text that the vocabulary lacks, or None if it has an id for every byte."""
        ...

    def encode_batch(
        self, captions: Sequence[str], rngs: Rngs | None = None, dropout: float = 0.0
    ) -> Int32[np.ndarray, "B T"]:
        """Encode captions, each truncated or padded to ``length``.

        ``dropout`` is the probability of skipping a BPE merge. ``rngs`` has one random generator for each caption,
        which draws the merges to skip.
        """
        ...

    def pieces(self, caption: str) -> list[str]:
        """Split a caption into pieces, for display; not truncated, without begin and end."""
        ...

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Count each caption's ids before truncation, begin and end included."""
        ...

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """Return the text of ids; padding, begin and end are skipped."""
        ...
