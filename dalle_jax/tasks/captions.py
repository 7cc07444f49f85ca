"""Captions to token rows, as the tasks that read text do it."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.text.sentencepiece import SentencePiece
from dalle_jax.train.task import Seed


@dataclass(frozen=True)
class Captions:
    """A trained SentencePiece model and how captions are cut with it.

    ``file`` is its ``.model`` file; ``dropout`` is the share of BPE merges left out at random while training
    (DALL·E 1 has 0.1; arXiv 2102.12092, section 2.2), 0 for none.
    """

    file: str
    dropout: float = 0.0

    @cached_property
    def model(self) -> bytes:
        """The bytes of the model file, which travel with every checkpoint."""
        path = storage.place(self.file)
        if not path.is_file():
            raise UserError(
                f"captions.file: expected a SentencePiece model file, found none at {path}; "
                "train one with `python -m dalle_jax text-tokenizer`, or point to the text.model of a trained run"
            )
        return path.read_bytes()

    def tokenizer(self, length: int) -> SentencePiece:
        """The tokenizer that pads or cuts to ``length`` tokens."""
        return SentencePiece(self.model, length)

    def rows(self, captions: list[str], length: int, seeds: Sequence[Seed] | None) -> np.ndarray:
        """Token ids int32 [B length]; a seed for each caption, or None for evaluation, which drops nothing."""
        tokenizer = self.tokenizer(length)
        if seeds is None or self.dropout == 0.0:
            return tokenizer.encode_batch(captions)
        rngs = [np.random.default_rng(seed) for seed in seeds]
        return tokenizer.encode_batch(captions, rngs=rngs, dropout=self.dropout)


def check_vocabulary(captions: Captions, vocabulary: int, length: int, where: str) -> None:
    """Raises UserError where the model's vocabulary is not the text tokenizer's.

    A file that is not there is not checked: a plan needs none. Training asks for it before anything else.
    """
    if not storage.place(captions.file).is_file():
        return
    found = captions.tokenizer(length).vocab_size
    if found != vocabulary:
        raise UserError(
            f"{where}: expected {found}, the vocabulary of {captions.file}, got {vocabulary}; "
            "set it to that figure or train a text tokenizer of the size wanted"
        )
