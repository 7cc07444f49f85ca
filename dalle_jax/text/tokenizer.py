"""What tasks and pipelines ask of a text tokenizer, whichever it is."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int32

Rngs = Sequence[np.random.Generator]


@runtime_checkable
class TextTokenizer(Protocol):
    """Captions to rows of ``length`` ids and back. What is cut off of long captions is counted."""

    length: int
    seen_captions: int
    cut_captions: int

    @property
    def vocab_size(self) -> int:
        """One more than the largest id that a caption can have."""
        ...

    @property
    def pad_id(self) -> int:
        """The id that fills a row after its caption's end: 0 for SentencePiece and OpenAI's CLIP, 1 for BART."""
        ...

    def encode_batch(
        self, captions: Sequence[str], rngs: Rngs | None = None, dropout: float = 0.0
    ) -> Int32[np.ndarray, "B T"]:
        """The ids of captions, each cut or padded; ``dropout`` is the share of BPE merges left out at random."""
        ...

    def pieces(self, caption: str) -> list[str]:
        """How a caption is split, for people to look at; not cut, and without begin and end."""
        ...

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many ids each caption would have if none were cut, begin and end among them."""
        ...

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """The text of ids; padding, begin and end are skipped."""
        ...


class TextVocabulary(Protocol):
    """A choice of tokenizer in a config: which files it is made of, and the tokenizer that they make."""

    NAMES: ClassVar[tuple[str, ...]]
    """The names by which those files, or some of them, travel with a checkpoint."""
    published: ClassVar[bool]
    """Whether it is a known model's, whose table of tokens may have more rows than it has ids."""

    def files(self, path: str) -> Mapping[str, bytes]:
        """The files that ``path`` names, under some of ``NAMES``."""
        ...

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> TextTokenizer:
        """The tokenizer of those files that pads or cuts to ``length`` ids."""
        ...
