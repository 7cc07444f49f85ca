"""Statistics of a SentencePiece model on captions: unknown pieces, lengths in tokens, and truncation."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dalle_jax.text.sentencepiece import PAD, UNKNOWN, SentencePiece

BATCH = 1000
MAX_LISTED = 8


@dataclass(frozen=True)
class Lengths:
    """Numbers of tokens per caption.

    ``truncated`` is the share of captions that exceed the text length, or None if no text length is given.
    """

    mean: float
    p95: int
    longest: int
    truncated: float | None


@dataclass(frozen=True)
class Coverage:
    """Statistics of captions that a SentencePiece model has tokenized.

    ``unknown_share`` is the share of unknown tokens; ``unknown_pieces`` are the most frequent texts that they replace.
    """

    pieces: int
    captions: int
    unknown_share: float
    unknown_pieces: tuple[str, ...]
    lengths: Lengths
    with_dropout: Lengths | None

    def format_text(self, text_length: int | None, dropout: float) -> str:
        """Format the statistics as lines of text."""
        listed = f": {' '.join(self.unknown_pieces)}" if self.unknown_pieces else ""
        lines = [
            f"{self.pieces} pieces, {self.captions} captions",
            f"unknown: {self.unknown_share:.4%} of the tokens{listed}",
            f"tokens per caption: {_format_lengths(self.lengths, text_length)}",
        ]
        if self.with_dropout is not None:
            lines.append(f"with {dropout:.0%} of the merges dropped: {_format_lengths(self.with_dropout, text_length)}")
        return "\n".join(lines)


def _format_lengths(lengths: Lengths, text_length: int | None) -> str:
    truncated = "" if lengths.truncated is None else f"; {lengths.truncated:.2%} are truncated at {text_length}"
    return f"mean {lengths.mean:.1f}, 95 % at most {lengths.p95}, longest {lengths.longest}{truncated}"


def measure_coverage(
    model: bytes, captions: Sequence[str], text_length: int | None = None, dropout: float = 0.0, seed: int = 0
) -> Coverage:
    """Tokenize captions and return their statistics.

    With ``dropout``, which needs a BPE model, also measure the lengths with BPE dropout, as in training.
    """
    if not captions:
        raise ValueError("expected at least one caption to measure coverage on, got none")
    tokenizer = SentencePiece(model, 1)
    tokens = unknown = 0
    counts, replaced = [], Counter[str]()
    for start in range(0, len(captions), BATCH):
        part = captions[start : start + BATCH]
        for row, caption in zip(tokenizer.ids(part), part, strict=True):
            counts.append(len(row))
            tokens += len(row)
            missing = row.count(UNKNOWN)
            unknown += missing
            if missing:
                pieces = tokenizer.pieces(caption)
                replaced.update(piece for piece, one in zip(pieces, row, strict=True) if one == UNKNOWN)
    dropped = None
    if dropout:
        dropped = _summarize(_lengths_with_dropout(model, captions, max(counts), dropout, seed), text_length)
    listed = tuple(piece for piece, _ in replaced.most_common(MAX_LISTED))
    share = unknown / max(tokens, 1)
    return Coverage(
        tokenizer.vocab_size, len(captions), share, listed, _summarize(counts, text_length), with_dropout=dropped
    )


def _summarize(counts: Sequence[int], text_length: int | None) -> Lengths:
    truncated = None if text_length is None else float(np.mean(np.array(counts) > text_length))
    p95 = int(np.quantile(counts, 0.95, method="inverted_cdf"))
    return Lengths(float(np.mean(counts)), p95, max(counts), truncated)


def _lengths_with_dropout(model: bytes, captions: Sequence[str], longest: int, dropout: float, seed: int) -> list[int]:
    """Count tokens per caption with BPE dropout."""
    counts: list[int] = []
    most = 2 + max(longest, *(2 * len(one) for one in captions))  # no token is shorter than a letter or a space
    tokenizer = SentencePiece(model, most)
    for start in range(0, len(captions), 100):
        part = captions[start : start + 100]
        rngs = [np.random.default_rng((seed, start + place)) for place in range(len(part))]
        counts += (tokenizer.encode_batch(part, rngs=rngs, dropout=dropout) != PAD).sum(axis=1).tolist()
    return counts
