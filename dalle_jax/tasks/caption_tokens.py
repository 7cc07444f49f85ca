"""The text tokenizer of a task: captions to rows of token ids."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.load.text import Vocabulary, packed
from dalle_jax.text.sentencepiece import SentencePieceModel
from dalle_jax.text.tokenizer import TextTokenizer
from dalle_jax.train.task import Seed


@dataclass(frozen=True)
class Captions:
    """The text tokenizer of the captions.

    - ``file``: the ``.model`` file of SentencePiece, CLIP's ``bpe_simple_vocab_16e6.txt.gz`` or BART's ``vocab.json``.
    - ``vocabulary``: the kind of vocabulary in that file.
    - ``dropout``: the share of BPE merges that training leaves out at random (DALL·E 1 has 0.1; arXiv 2102.12092,
      section 2.2).
    """

    file: str
    dropout: float = 0.0
    vocabulary: Vocabulary = field(default_factory=SentencePieceModel)

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: expected a share of the merges in [0, 1), got {self.dropout}")

    def open(self, length: int) -> "CaptionTokenizer":
        """Load the tokenizer for captions of ``length`` ids. Raise ``UserError`` if its file is missing."""
        files = self.vocabulary.files(self.file)
        return CaptionTokenizer(self, files, self.vocabulary.tokenizer(files, length))

    def open_if_present(self, length: int) -> "CaptionTokenizer | None":
        """Load the tokenizer, or return None if its file does not exist yet."""
        return self.open(length) if storage.place(self.file).is_file() else None


@dataclass(frozen=True, eq=False)
class CaptionTokenizer:
    """A loaded text tokenizer, with its files and the share of merges that training drops."""

    config: Captions
    vocabulary_files: Mapping[str, bytes]
    tokenizer: TextTokenizer

    def files(self) -> dict[str, bytes]:
        """Return the files that every checkpoint carries (pipelines/load/text.py)."""
        return packed(self.config.vocabulary, self.vocabulary_files)

    def rows(self, captions: list[str], seeds: Sequence[Seed] | None) -> np.ndarray:
        """Return token ids int32 [B T].

        ``seeds`` has one seed for each caption, which draws the merges to skip. None, for evaluation, means no dropout.
        """
        if seeds is None or self.config.dropout == 0.0:
            return self.tokenizer.encode_batch(captions)
        rngs = [np.random.default_rng(seed) for seed in seeds]
        return self.tokenizer.encode_batch(captions, rngs=rngs, dropout=self.config.dropout)

    def truncated(self) -> tuple[int, int, str]:
        """Return the number of truncated captions, the number of captions read, and a text that names the limit."""
        tokenizer = self.tokenizer
        length = f"task.model.text_length, {tokenizer.length} tokens"
        return tokenizer.truncated_captions, tokenizer.encoded_captions, length

    def check_model(self, vocabulary: int, where: str, pad: int = 0, empty: tuple[int, ...] | None = None) -> None:
        """Raise ``UserError`` if a model's vocabulary size, padding id or empty caption differs from the tokenizer's.

        ``where`` is the config field of the vocabulary size, which errors name. ``empty`` holds the ids of the empty
        caption, if the model's config has them. The table of a published model may have more rows than its tokenizer
        has ids.
        """
        published, file = self.config.vocabulary.published, self.config.file
        kind, found = type(self.config.vocabulary).__name__, self.tokenizer.vocab_size
        if found > vocabulary or (found < vocabulary and not published):
            raise UserError(
                f"{where}: expected {found}, the vocabulary of {file}, got {vocabulary}; "
                f"set it to {found}, or train a text tokenizer of a different size"
            )
        if self.tokenizer.pad_id != pad:
            raise UserError(
                f"task.captions.vocabulary: expected a text tokenizer that pads with id {pad}, as the model does, got "
                f"{kind}, which pads with {self.tokenizer.pad_id}"
            )
        if empty is not None and (ids := self._empty_caption(pad)) != empty:
            raise UserError(
                f"task.model.empty_caption: expected {ids}, the ids that {kind} gives for a caption without words, "
                f"got {empty}"
            )

    def empty_row(self) -> np.ndarray:
        """Return the ids int32 [1 T] of a caption without words, from a second tokenizer, so that it is not counted."""
        return self.config.vocabulary.tokenizer(self.vocabulary_files, self.tokenizer.length).encode_batch([""])

    def _empty_caption(self, pad: int) -> tuple[int, ...]:
        """Return the ids of the empty caption, without padding."""
        ids = self.empty_row()[0]
        return tuple(ids[ids != pad].tolist())


def loaded(captions: CaptionTokenizer | None) -> CaptionTokenizer:
    """Return ``captions``. Raise ``ValueError`` if it is None, because the task was opened without a text tokenizer."""
    if captions is None:
        raise ValueError(
            "captions: expected a text tokenizer, got None, because a task that was opened for a plan reads no captions"
        )
    return captions
