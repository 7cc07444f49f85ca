"""SentencePiece trained on one's own captions, and its use as a text tokenizer of fixed length.

Ids: 0 is padding and nothing else, 1 is unknown, the rest are pieces. There is no begin or end of sentence. BPE dropout
(Provilkov et al. 2020, arXiv:1910.13267) is done here rather than by the library, whose random numbers cannot be given.
"""

import io
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import sentencepiece
from jaxtyping import Int32

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.text.normalize import normalize

PAD, UNKNOWN = 0, 1
CAPTIONS_AT_MOST = 1_000_000

ModelType = Literal["bpe", "unigram"]


def train_sentencepiece(
    captions: Iterable[str], vocab_size: int, model_type: ModelType, seed: int, lower: bool = True
) -> bytes:
    """A SentencePiece model of at most ``vocab_size`` pieces, the same bytes for the same arguments.

    Fewer pieces come out where the captions have no more to give. ``seed`` picks the captions used when there are more
    than a million. Raises ``UserError`` when there is no text, or ``vocab_size`` cannot hold the characters.
    """
    sentences = [text for text in map(normalize, captions) if text]
    if not sentences:
        raise UserError("expected captions to train a text tokenizer on, got none with any text")
    if len(sentences) > CAPTIONS_AT_MOST:
        kept = np.random.default_rng(seed).choice(len(sentences), CAPTIONS_AT_MOST, replace=False)
        sentences = [sentences[i] for i in np.sort(kept)]
    size = vocab_size
    while True:
        try:
            return _train(sentences, size, model_type, lower)
        except RuntimeError as error:
            smaller = _largest_possible(str(error))
            if smaller is None or smaller >= size:
                raise UserError(f"no text tokenizer of {vocab_size} pieces can be trained: {_reason(error)}") from error
            size = smaller


def _train(sentences: list[str], vocab_size: int, model_type: ModelType, lower: bool) -> bytes:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=vocab_size,
        model_type=model_type,
        normalization_rule_name="nmt_nfkc_cf" if lower else "nmt_nfkc",
        character_coverage=1.0 if len(sentences) < 100_000 else 0.9995,
        hard_vocab_limit=False,
        max_sentence_length=65_536,
        pad_id=PAD,
        unk_id=UNKNOWN,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _largest_possible(message: str) -> int | None:
    """The size that the library says would do, when it was asked for too many pieces."""
    marker = "value <= "
    if "too high" not in message or marker not in message:
        return None
    digits = message.split(marker)[1].split(".")[0]
    return int(digits) if digits.isdigit() else None


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())


@dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece model of one's own, which ``text-tokenizer`` trains; whether it folds case is in the model."""

    NAMES: ClassVar[tuple[str, ...]] = ("text.model",)
    published: ClassVar[bool] = False

    def files(self, path: str) -> Mapping[str, bytes]:
        """The bytes of the model file, which travel with every checkpoint."""
        place = storage.place(path)
        if not place.is_file():
            raise UserError(
                f"captions.file: expected a SentencePiece model file, found none at {place}; "
                "train one with `python -m dalle_jax text-tokenizer`, or point to the text.model of a trained run"
            )
        return {self.NAMES[0]: place.read_bytes()}

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "SentencePiece":
        """The tokenizer of that model."""
        return SentencePiece(files[self.NAMES[0]], length)


class SentencePiece:
    """A trained model with a fixed text length.

    Captions with more than ``length`` tokens lose their ends; ``cut_captions`` of ``seen_captions`` so far were.
    """

    def __init__(self, model: bytes, length: int):
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(
                f"expected the bytes of a SentencePiece model, got something else: {_reason(error)}"
            ) from error
        if self._model.pad_id() != PAD or self._model.unk_id() != UNKNOWN:
            raise UserError(
                f"expected a SentencePiece model with pad id {PAD} and unknown id {UNKNOWN}, got "
                f"{self._model.pad_id()} and {self._model.unk_id()}: train it with train_sentencepiece"
            )
        self.bytes = model
        self.length = length
        self.seen_captions = 0
        self.cut_captions = 0
        self._ranks: dict[str, tuple[float, int]] | None = None

    @property
    def vocab_size(self) -> int:
        """How many ids there are, padding and unknown among them."""
        return self._model.get_piece_size()

    @property
    def pad_id(self) -> int:
        """The id after a caption's end."""
        return PAD

    def encode(self, caption: str) -> Int32[np.ndarray, " T"]:
        """The ids of a caption, cut or padded to ``length``; the empty caption is all padding."""
        return self.encode_batch([caption])[0]

    def encode_batch(
        self, captions: Sequence[str], rngs: Sequence[np.random.Generator] | None = None, dropout: float = 0.0
    ) -> Int32[np.ndarray, "B T"]:
        """The ids of captions, each cut or padded to ``length``.

        ``dropout`` is the share of merges that BPE skips, drawn from each caption's own of ``rngs``; only a BPE
        model has it.
        """
        texts = [normalize(caption) for caption in captions]
        if dropout > 0:
            if rngs is None:
                raise ValueError("BPE dropout draws random numbers: give encode_batch rngs, one for each caption")
            rows = [self._encode_with_dropout(text, rng, dropout) for text, rng in zip(texts, rngs, strict=True)]
        else:
            rows = self._model.encode(texts, out_type=int)
        ids = np.zeros((len(texts), self.length), np.int32)
        for place, row in enumerate(rows):
            self.cut_captions += len(row) > self.length
            row = row[: self.length]
            ids[place, : len(row)] = row
        self.seen_captions += len(texts)
        return ids  # [B T]

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """The text of ids; padding is skipped."""
        return self._model.decode([int(i) for i in ids if int(i) != PAD])

    def pieces(self, caption: str) -> list[str]:
        """How a caption is split, for people to look at; not cut."""
        return self._model.encode(normalize(caption), out_type=str)

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """The ids of captions as they are, neither cut nor padded."""
        return self._model.encode([normalize(one) for one in captions], out_type=int)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """How many ids each caption would have if none were cut."""
        return [len(row) for row in self.ids(captions)]

    def _encode_with_dropout(self, text: str, rng: np.random.Generator, dropout: float) -> list[int]:
        if self._ranks is None:
            self._ranks = self._read_merges()
        prepared = self._prepare(text)
        draw = random.Random(int(rng.integers(2**63))).random  # ten times faster one by one than numpy's
        pieces: list[str] = []
        for word in prepared.split("\u2581")[1:]:  # no piece reaches over a space
            pieces += _merge(list("\u2581" + word), self._ranks, draw, dropout)
        return _without_double_unknown([self._ranks[piece][1] if piece in self._ranks else UNKNOWN for piece in pieces])

    def _prepare(self, text: str) -> str:
        """The text as the model's own normaliser leaves it, with its sign for a space."""
        normal = self._model.normalize(text)
        return normal if normal.startswith("\u2581") or not normal else "\u2581" + normal

    def _read_merges(self) -> dict[str, tuple[float, int]]:
        """Piece to (score, id); the score of a BPE piece says how early its merge comes."""
        model = self._model
        pieces = {model.id_to_piece(i): (model.get_score(i), i) for i in range(2, model.get_piece_size())}
        multi = [score for piece, (score, _) in pieces.items() if len(piece) > 1]
        if multi and not all(score == int(score) for score in multi):
            raise UserError("BPE dropout needs a BPE model, got a unigram one: train it with model_type='bpe'")
        return pieces


def _merge(
    symbols: list[str], ranks: dict[str, tuple[float, int]], draw: Callable[[], float], dropout: float
) -> list[str]:
    """Merge the pair that BPE learned first, over and over; each pair is skipped with chance ``dropout`` each time."""
    while len(symbols) > 1:
        best, place = -math.inf, -1
        for i in range(len(symbols) - 1):
            pair = ranks.get(symbols[i] + symbols[i + 1])
            if pair is not None and pair[0] > best and draw() >= dropout:
                best, place = pair[0], i
        if place < 0:
            break
        symbols[place : place + 2] = [symbols[place] + symbols[place + 1]]
    return symbols


def _without_double_unknown(ids: list[int]) -> list[int]:
    """Neighbouring unknown characters are one unknown, as the library has it."""
    return [i for place, i in enumerate(ids) if not (i == UNKNOWN and place and ids[place - 1] == UNKNOWN)]
