"""How well a SentencePiece model fits captions: what it does not know, how long they become, what is cut off."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.text.sentencepiece import PAD, UNKNOWN, SentencePiece

AT_ONCE = 1000
NAMED = 8


@dataclass(frozen=True)
class Lengths:
    """Tokens per caption. ``cut`` is the share of captions with more than the model's text length, None without one."""

    mean: float
    p95: int
    longest: int
    cut: float | None


@dataclass(frozen=True)
class Coverage:
    """``unknown`` is the share of tokens that are unknown, ``strange`` the most frequent of what they stand for."""

    pieces: int
    captions: int
    unknown: float
    strange: tuple[str, ...]
    lengths: Lengths
    with_dropout: Lengths | None

    def words(self, text_length: int | None, dropout: float) -> str:
        """The same for people, a line for each thing."""
        strange = f": {' '.join(self.strange)}" if self.strange else ""
        lines = [
            f"{self.pieces} pieces, {self.captions} captions",
            f"unknown: {self.unknown:.4%} of the tokens{strange}",
            f"tokens per caption: {_said(self.lengths, text_length)}",
        ]
        if self.with_dropout is not None:
            lines.append(f"with {dropout:.0%} of the merges dropped: {_said(self.with_dropout, text_length)}")
        return "\n".join(lines)


def _said(lengths: Lengths, text_length: int | None) -> str:
    cut = "" if lengths.cut is None else f"; {lengths.cut:.2%} are cut at {text_length}"
    return f"mean {lengths.mean:.1f}, 95 % at most {lengths.p95}, longest {lengths.longest}{cut}"


def measure(
    model: bytes, captions: Sequence[str], text_length: int | None = None, dropout: float = 0.0, seed: int = 0
) -> Coverage:
    """The coverage of captions; with ``dropout`` (a BPE model's) their lengths while training too."""
    if not captions:
        raise ValueError("coverage is of captions, got none")
    tokenizer = SentencePiece(model, 1)
    tokens = unknown = 0
    counts, strange = [], Counter[str]()
    for start in range(0, len(captions), AT_ONCE):
        part = captions[start : start + AT_ONCE]
        for row, caption in zip(tokenizer.ids(part), part, strict=True):
            counts.append(len(row))
            tokens += len(row)
            missing = row.count(UNKNOWN)
            unknown += missing
            if missing:
                pieces = tokenizer.pieces(caption)
                strange.update(piece for piece, one in zip(pieces, row, strict=True) if one == UNKNOWN)
    dropped = None
    if dropout:
        dropped = _lengths(_dropped(model, captions, max(counts), dropout, seed), text_length)
    named = tuple(piece for piece, _ in strange.most_common(NAMED))
    share = unknown / max(tokens, 1)
    return Coverage(
        tokenizer.vocab_size, len(captions), share, named, _lengths(counts, text_length), with_dropout=dropped
    )


def _lengths(counts: Sequence[int], text_length: int | None) -> Lengths:
    cut = None if text_length is None else float(np.mean(np.array(counts) > text_length))
    p95 = int(np.quantile(counts, 0.95, method="inverted_cdf"))
    return Lengths(float(np.mean(counts)), p95, max(counts), cut)


def _dropped(model: bytes, captions: Sequence[str], longest: int, dropout: float, seed: int) -> list[int]:
    """Tokens per caption with merges dropped: a caption has at most as many as it has letters and spaces."""
    counts: list[int] = []
    room = 2 + max(longest, *(2 * len(one) for one in captions))
    tokenizer = SentencePiece(model, room)
    for start in range(0, len(captions), 100):
        part = captions[start : start + 100]
        rngs = [np.random.default_rng((seed, start + place)) for place in range(len(part))]
        counts += (tokenizer.encode_batch(part, rngs=rngs, dropout=dropout) != PAD).sum(axis=1).tolist()
    return counts
