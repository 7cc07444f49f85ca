"""Accuracy of read words: character error rate, word accuracy and normalised edit distance."""

from collections.abc import Sequence
from dataclasses import dataclass

from dalle_jax.evaluate.metrics.shares import Share


def edit_distance(one: str, other: str) -> int:
    """Return the least number of inserted, deleted and replaced letters that turn one word into another one."""
    before = list(range(len(other) + 1))
    for i, letter in enumerate(one, start=1):
        row = [i]
        for j, wanted in enumerate(other, start=1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != wanted)))
        before = row
    return before[-1]


@dataclass(frozen=True)
class TextAccuracy:
    """Sums over read words, which add up over images and processes.

    ``edits`` is the sum of edit distances to the expected words, ``letters`` the number of expected letters, and
    ``relative_edits`` the sum of edit distances, each divided by the length of the longer word.
    """

    words: int = 0
    right: int = 0
    letters: int = 0
    edits: int = 0
    relative_edits: float = 0.0

    def update(self, expected: Sequence[str], read: Sequence[str]) -> "TextAccuracy":
        """Return the sums with more words. Raise ``ValueError`` if the numbers of words differ."""
        if len(expected) != len(read):
            raise ValueError(f"read: expected {len(expected)} words, got {len(read)}")
        distances = [edit_distance(*pair) for pair in zip(expected, read, strict=True)]
        longer = [max(len(one), len(other), 1) for one, other in zip(expected, read, strict=True)]
        return self.merge(
            TextAccuracy(
                words=len(expected),
                right=sum(distance == 0 for distance in distances),
                letters=sum(map(len, expected)),
                edits=sum(distances),
                relative_edits=sum(d / n for d, n in zip(distances, longer, strict=True)),
            )
        )

    def merge(self, other: "TextAccuracy") -> "TextAccuracy":
        """Return the sums of both."""
        return TextAccuracy(
            self.words + other.words,
            self.right + other.right,
            self.letters + other.letters,
            self.edits + other.edits,
            self.relative_edits + other.relative_edits,
        )

    @property
    def word_accuracy(self) -> Share:
        """The share of words that were read without an error."""
        return Share(self.right, self.words)

    @property
    def character_error_rate(self) -> float | None:
        """The edits per expected letter, which may exceed 1; None without letters."""
        return self.edits / self.letters if self.letters else None

    @property
    def normalised_edit_distance(self) -> float | None:
        """The mean share of the longer word that was edited, in [0, 1]; None without words."""
        return self.relative_edits / self.words if self.words else None

    def to_json(self) -> dict[str, object]:
        """Return the three figures, the words counted and the interval of the word accuracy."""
        share = self.word_accuracy
        return {
            "character_error_rate": self.character_error_rate,
            "word_accuracy": share.value,
            "word_accuracy_interval_95": None if share.interval is None else list(share.interval),
            "normalised_edit_distance": self.normalised_edit_distance,
            "count": self.words,
        }
