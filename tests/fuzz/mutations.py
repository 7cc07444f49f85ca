"""Seeded mutations of files: changed, cut, repeated and spliced bytes, and numbers and words of text."""

import random
import re
from collections.abc import Callable, Sequence

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 2**63 - 1, 2**63, 2**64 - 1)
NUMBERS = (b"0", b"-1", b"1e999", b"NaN", b"1" + b"0" * 30, b"9" * 400, b"9" * 5000, b"2147483648", b"0.5", b"null")
WORDS = (
    b'"\\ud800"',
    b"\xff",
    b"\x00",
    b"[" * 200,
    b"{}" * 50,
    b"\xf0\x9f\x98\x80",
    b"'a' " * 50,
    b"%A",
    b"@A()",
    b"..",
)
MAX_BYTES = 1 << 20


def mutated(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return a file after one to six random mutations; ``others`` are files to splice with."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        content = rng.choice(MUTATIONS)(content or b"\0", others, rng)[:MAX_BYTES]
    return content


def _place(content: bytes, rng: random.Random) -> int:
    """Return a position; every second one is near the beginning, where headers are."""
    return rng.randrange(min(len(content), 64) if rng.random() < 0.5 else len(content))


def _changed_bytes(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        out[_place(content, rng)] = rng.randrange(256)
    return bytes(out)


def _flipped_bit(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    out = bytearray(content)
    out[_place(content, rng)] ^= 1 << rng.randrange(8)
    return bytes(out)


def _extreme_number(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    size, at = rng.choice((1, 2, 4, 8)), _place(content, rng)
    value = (rng.choice(EXTREMES) & (1 << 8 * size) - 1).to_bytes(size, rng.choice(("little", "big")))
    return content[:at] + value + content[at + size :]


def _cut(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def _removed_span(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + content[at + rng.choice((1, 2, 4, 20, 200)) :]


def _repeated_span(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at, size = _place(content, rng), rng.choice((1, 2, 4, 16, 100))
    return content[:at] + content[at : at + size] * rng.choice((2, 3, 100, 5000)) + content[at + size :]


def _spliced(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return content[: rng.randrange(len(content) + 1)] + other[rng.randrange(len(other) + 1) :]


def _other_number(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content[:100_000]))
    if not found:
        return _changed_bytes(content, others, rng)
    one = rng.choice(found)
    return content[: one.start()] + rng.choice(NUMBERS) + content[one.end() :]


def _inserted_word(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    at = _place(content, rng)
    return content[:at] + rng.choice(WORDS) + content[at:]


def _moved_line(content: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    lines = content.split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(lines))
    return b"\n".join(lines)


MUTATIONS: tuple[Callable[[bytes, Sequence[bytes], random.Random], bytes], ...] = (
    *(_changed_bytes, _flipped_bit, _extreme_number, _cut, _removed_span),
    *(_repeated_span, _spliced, _other_number, _inserted_word, _moved_line),
)
