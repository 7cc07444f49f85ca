"""SentencePiece models: training on captions, and a text tokenizer with rows of fixed length.

Ids: 0 is padding only, 1 is unknown, the rest are pieces. There is no begin or end of sentence. BPE dropout (Provilkov
et al. 2020, arXiv:1910.13267) is implemented here, since the library's random generator cannot be seeded per caption.
"""

import io
import math
import random
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import sentencepiece
from jaxtyping import Int32

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.untrusted import read_file

PAD, UNKNOWN = 0, 1
LEAST_PIECES = 3
"""Smallest vocabulary: padding, unknown and one piece."""
MAX_CAPTIONS = 1_000_000
MAX_CAPTION_BYTES = 65_536
"""Longer captions are not used to train a model."""
SPACE = "\u2581"
"""The letter that stands for a space in pieces."""

ModelType = Literal["bpe", "unigram"]


def normalize(caption: str) -> str:
    """Return one line of NFC text with single spaces, without control characters and lone surrogates.

    Upper and lower case are kept. Lower-casing is chosen when a model is trained, and is stored in the model.
    """
    text = caption.encode("utf-8", errors="replace").decode("utf-8")
    text = unicodedata.normalize("NFC", text)
    if not (text.isascii() and text.isprintable()):
        text = "".join(" " if unicodedata.category(c) in ("Cc", "Zl", "Zp") else c for c in text)
    return " ".join(text.split())


def train_sentencepiece(
    captions: Iterable[str], vocab_size: int, model_type: ModelType, seed: int, lower: bool = True
) -> bytes:
    """Train a SentencePiece model and return the bytes of its file. Equal arguments give equal bytes.

    The model has at most ``vocab_size`` pieces, fewer if the captions do not yield as many. If there are more than a
    million captions, ``seed`` draws a million of them for training. Raises ``UserError`` if there is no text, or if
    ``vocab_size`` is less than the number of characters.
    """
    if vocab_size < LEAST_PIECES:
        raise UserError(f"vocab_size: expected at least {LEAST_PIECES}, got {vocab_size}")
    texts = [text for text in map(normalize, captions) if text.strip(f"{SPACE} ")]
    sentences = [text for text in texts if len(text.encode()) <= MAX_CAPTION_BYTES]
    if not sentences:
        got = f"{len(texts)} of more than {MAX_CAPTION_BYTES:,} bytes" if texts else "none with any text"
        raise UserError(f"expected captions to train a text tokenizer on, got {got}")
    if len(sentences) > MAX_CAPTIONS:
        kept = np.random.default_rng(seed).choice(len(sentences), MAX_CAPTIONS, replace=False)
        sentences = [sentences[i] for i in np.sort(kept)]
    size = vocab_size
    while True:
        try:
            return _train(sentences, size, model_type, lower)
        except RuntimeError as error:
            smaller = _largest_possible(str(error))
            if smaller is None or smaller >= size:
                raise UserError(_refusal(str(error), vocab_size, len(sentences))) from error
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
        max_sentence_length=MAX_CAPTION_BYTES,
        pad_id=PAD,
        unk_id=UNKNOWN,
        bos_id=-1,
        eos_id=-1,
        num_threads=1,
        minloglevel=2,
    )
    return model.getvalue()


def _largest_possible(message: str) -> int | None:
    """Return the largest possible number of pieces, from the library's error about too many. None for other errors."""
    marker = "value <= "
    if "too high" not in message or marker not in message:
        return None
    digits = message.split(marker)[1].split(".")[0]
    return int(digits) if digits.isdigit() else None


def _refusal(message: str, vocab_size: int, captions: int) -> str:
    """Return our words for the library's error, which names its source files and its options."""
    letters = re.search(r"required_chars\. \d+ vs (\d+)", message)
    if letters is not None:
        expected = f"at least {letters[1]}, the different letters of the captions and {LEAST_PIECES - 1} special ids"
        return f"vocab_size: expected {expected}, got {vocab_size}"
    reason = re.sub(r"\S*\w+\.cc\(\d+\)|\[.*?\]|\b[A-Z_]+:", "", message)
    said = f" ({' '.join(reason.split())})" if reason.strip() else ""
    return f"expected captions that give a text tokenizer of {vocab_size} pieces, got {captions} that do not{said}"


@dataclass(frozen=True)
class SentencePieceModel:
    """A SentencePiece model that the command ``text-tokenizer`` trained.

    The model's file says if it lower-cases captions.
    """

    NAMES: ClassVar[tuple[str, ...]] = ("text.model",)
    published: ClassVar[bool] = False

    def files(self, path: str) -> Mapping[str, bytes]:
        """Read the model file, to store it with every checkpoint."""
        place = storage.place(path)
        if not place.is_file():
            raise UserError(
                f"captions.file: expected a SentencePiece model file, found none at {place}; "
                "train one with `python -m dalle_jax text-tokenizer`, or point to the text.model of a trained run"
            )
        return {self.NAMES[0]: read_file(place)}

    def tokenizer(self, files: Mapping[str, bytes], length: int) -> "SentencePiece":
        """Build the tokenizer from the model file, with rows of ``length`` ids."""
        return SentencePiece(files[self.NAMES[0]], length)


class SentencePiece:
    """A ``TextTokenizer`` for a trained model; captions longer than ``length`` are truncated."""

    def __init__(self, model: bytes, length: int):
        try:
            self._model = sentencepiece.SentencePieceProcessor(model_proto=model)
        except RuntimeError as error:
            raise UserError(
                f"expected the bytes of a SentencePiece model, got {len(model):,} bytes of something else"
            ) from error
        if self._model.pad_id() != PAD or self._model.unk_id() != UNKNOWN:
            raise UserError(
                f"expected a SentencePiece model with pad id {PAD} and unknown id {UNKNOWN}, got "
                f"{self._model.pad_id()} and {self._model.unk_id()}: train it with the command text-tokenizer"
            )
        self.bytes = model
        self.length = length
        self.encoded_captions = 0
        self.truncated_captions = 0
        self._ranks: dict[str, tuple[float, int]] | None = None

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, padding and unknown included."""
        return self._model.get_piece_size()

    @property
    def pad_id(self) -> int:
        """Return the id that fills a row after its caption."""
        return PAD

    @property
    def unknown_id(self) -> int | None:
        """Return the id of letters that the model lacks."""
        return UNKNOWN

    def encode(self, caption: str) -> Int32[np.ndarray, " T"]:
        """Encode one caption, truncated or padded to ``length``; the empty caption is all padding."""
        return self.encode_batch([caption])[0]

    def encode_batch(
        self, captions: Sequence[str], rngs: Sequence[np.random.Generator] | None = None, dropout: float = 0.0
    ) -> Int32[np.ndarray, "B T"]:
        """Encode captions, each truncated or padded to ``length``.

        ``dropout``, for BPE models only, is the probability of skipping a merge. ``rngs`` has one random generator for
        each caption, which draws the merges to skip.
        """
        texts = [normalize(caption) for caption in captions]
        if dropout > 0:
            if rngs is None:
                raise ValueError("expected rngs for BPE dropout, one generator for each caption, got none")
            rows = [self._encode_with_dropout(text, rng, dropout) for text, rng in zip(texts, rngs, strict=True)]
        else:
            rows = self._model.encode(texts, out_type=int)
        ids = np.zeros((len(texts), self.length), np.int32)
        for place, row in enumerate(rows):
            self.truncated_captions += len(row) > self.length
            row = row[: self.length]
            ids[place, : len(row)] = row
        self.encoded_captions += len(texts)
        return ids  # [B T]

    def decode(self, ids: Sequence[int] | Int32[np.ndarray, " T"]) -> str:
        """Return the text of ids; padding is skipped."""
        return self._model.decode([int(i) for i in ids if int(i) != PAD])

    def pieces(self, caption: str) -> list[str]:
        """Split a caption into pieces, for display; not truncated."""
        return self._model.encode(normalize(caption), out_type=str)

    def ids(self, captions: Sequence[str]) -> list[list[int]]:
        """Encode captions without truncation and padding."""
        return self._model.encode([normalize(one) for one in captions], out_type=int)

    def lengths(self, captions: Sequence[str]) -> list[int]:
        """Count each caption's ids before truncation."""
        return [len(row) for row in self.ids(captions)]

    def _encode_with_dropout(self, text: str, rng: np.random.Generator, dropout: float) -> list[int]:
        if self._ranks is None:
            self._ranks = self._read_merges()
        prepared = self._prepare(text)
        draw = random.Random(int(rng.integers(2**63))).random  # ten times faster than numpy for single numbers
        pieces: list[str] = []
        for word in prepared.split("\u2581")[1:]:  # no piece crosses a space
            pieces += _merge(list("\u2581" + word), self._ranks, draw, dropout)
        return _join_unknown([self._ranks[piece][1] if piece in self._ranks else UNKNOWN for piece in pieces])

    def _prepare(self, text: str) -> str:
        """Apply the model's normalizer, which writes a space as U+2581."""
        normal = self._model.normalize(text)
        return normal if normal.startswith("\u2581") or not normal else "\u2581" + normal

    def _read_merges(self) -> dict[str, tuple[float, int]]:
        """Return piece to (score, id).

        Pairs are merged in the order of the scores of the merged pieces, highest first.
        """
        model = self._model
        pieces = {model.id_to_piece(i): (model.get_score(i), i) for i in range(2, model.get_piece_size())}
        multi = [score for piece, (score, _) in pieces.items() if len(piece) > 1]
        if multi and not all(score == int(score) for score in multi):
            raise UserError(
                "expected a BPE model for BPE dropout, got a unigram model: train it with algorithm = 'bpe'"
            )
        return pieces


def _merge(
    symbols: list[str], ranks: dict[str, tuple[float, int]], draw: Callable[[], float], dropout: float
) -> list[str]:
    """Merge the pair with the best score until no pair is left.

    Each step ignores each pair with probability ``dropout``.
    """
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


def _join_unknown(ids: list[int]) -> list[int]:
    """Join neighbouring unknown ids into one, as sentencepiece does."""
    return [i for place, i in enumerate(ids) if not (i == UNKNOWN and place and ids[place - 1] == UNKNOWN)]
