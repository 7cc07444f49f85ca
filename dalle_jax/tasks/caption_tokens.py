"""Captions to token rows, as the tasks that read text do it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.pipelines.load.text import Vocabulary, packed
from dalle_jax.text.sentencepiece import SentencePieceModel
from dalle_jax.text.tokenizer import TextTokenizer
from dalle_jax.train.task import Seed


@dataclass(frozen=True)
class Captions:
    """A text tokenizer and how captions are cut with it.

    ``vocabulary`` says which kind it is, and ``file`` where it lies: the ``.model`` file of SentencePiece, CLIP's
    ``bpe_simple_vocab_16e6.txt.gz``, BART's ``vocab.json``. ``dropout`` is the share of BPE merges left out at random
    while training (DALL·E 1 has 0.1; arXiv 2102.12092, section 2.2), 0 for none.
    """

    file: str
    dropout: float = 0.0
    vocabulary: Vocabulary = field(default_factory=SentencePieceModel)

    def __post_init__(self) -> None:
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout: expected a share of the merges in [0, 1), got {self.dropout}")

    @cached_property
    def _files(self) -> Mapping[str, bytes]:
        return self.vocabulary.files(self.file)

    @cached_property
    def _made(self) -> dict[int, TextTokenizer]:
        return {}

    def files(self) -> dict[str, bytes]:
        """The files that travel with every checkpoint (pipelines/load/text.py)."""
        return packed(self.vocabulary, self._files)

    def tokenizer(self, length: int) -> TextTokenizer:
        """The tokenizer that pads or cuts to ``length`` tokens, the same one every time."""
        if length not in self._made:
            self._made[length] = self.vocabulary.tokenizer(self._files, length)
        return self._made[length]

    def rows(self, captions: list[str], length: int, seeds: Sequence[Seed] | None) -> np.ndarray:
        """Token ids int32 [B length]; a seed for each caption, or None for evaluation, which drops nothing."""
        tokenizer = self.tokenizer(length)
        if seeds is None or self.dropout == 0.0:
            return tokenizer.encode_batch(captions)
        rngs = [np.random.default_rng(seed) for seed in seeds]
        return tokenizer.encode_batch(captions, rngs=rngs, dropout=self.dropout)


def check_vocabulary(
    captions: Captions, vocabulary: int, length: int, where: str, pad: int = 0, empty: tuple[int, ...] | None = None
) -> None:
    """Raises UserError where the model's vocabulary is not the text tokenizer's, or takes another id for padding.

    ``empty`` are the ids of the caption that a model is shown in place of blanked ones, where its config says so: those
    that the tokenizer gives for a caption without words, as DALL·E mini's guidance has it. The table of a published
    model may have more rows than its tokenizer has ids. A file that is not there is not checked: a plan needs none.
    Training asks for it before anything else.
    """
    if not storage.place(captions.file).is_file():
        return
    tokenizer = captions.tokenizer(length)
    found = tokenizer.vocab_size
    if found > vocabulary or (found < vocabulary and not captions.vocabulary.published):
        raise UserError(
            f"{where}: expected {found}, the vocabulary of {captions.file}, got {vocabulary}; "
            "set it to that figure or train a text tokenizer of the size wanted"
        )
    if tokenizer.pad_id != pad:
        raise UserError(
            f"task.captions.vocabulary: expected a text tokenizer that pads with id {pad}, as the model reads it, got "
            f"{type(captions.vocabulary).__name__}, which pads with {tokenizer.pad_id}"
        )
    without_words = tokenizer.encode_batch([""])[0]
    ids = tuple(without_words[without_words != pad].tolist())
    if empty is not None and ids != empty:
        raise UserError(
            f"task.model.empty_caption: expected {ids}, what {type(captions.vocabulary).__name__} gives for a caption "
            f"without words, got {empty}"
        )
