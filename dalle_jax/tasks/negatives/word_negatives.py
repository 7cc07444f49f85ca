"""Hard negatives of free captions: words that change places, or give way to other words seen at the same place."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeAlias

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.caption_reader import captions_of
from dalle_jax.data.choices import ImageSourceConfig
from dalle_jax.data.records import BadRecord
from dalle_jax.tasks.negatives.hard_negatives import Neighbour

Place: TypeAlias = tuple[str, str]
"""The words before and after a word; an end of the caption is an empty one."""

SYNONYMS = 0.1
"""Two words are synonyms if two captions of one example differ in these words alone, in more than this share of the
examples of the rarer word."""


@dataclass(frozen=True)
class WordNegatives:
    """Hard negatives by a rule that knows no parts of speech (NegCLIP's, arXiv 2210.01936, section 4, swaps nouns,
    adjectives, adverbs and verbs, which a tagger finds).

    The words seen at a place are those between the same two words in captions of the data. A wrong caption has one word
    replaced by another one seen at its place, or two words swapped that were each seen at the other's place; both are
    equally frequent. Words that are synonyms by the captions of one image do not replace each other. A swap that leaves
    the meaning as it is ("a cat and a dog") is not recognised.

    - ``source``: the source of the captions, such as that of the data.
    - ``captioned``: the number of its first examples whose captions are read.
    - ``texts``: wrong captions of each caption.
    """

    source: ImageSourceConfig
    captioned: int = 20_000
    texts: int = 3

    def __post_init__(self) -> None:
        for name, value in (("captioned", self.captioned), ("texts", self.texts)):
            if value < 1:
                raise ValueError(f"{name}: expected at least 1, got {value}")

    @property
    def images(self) -> int:
        """The number of neighbours of an example: words give no images."""
        return 0

    @property
    def blends(self) -> int:
        """The number of blends of an example: words give no images."""
        return 0

    def open(self) -> "WordChanges":
        """Read the captions. Raise ``UserError`` if no place has seen two words, so that no caption can be changed."""
        source, read = self.source.open(), list[list[str]]()
        for index in range(min(self.captioned, len(source))):
            try:
                read.append(captions_of(source, index))
            except BadRecord:
                continue
        found = WordChanges.of(self, read)
        if not any(len(words) > 1 for words in found.seen.values()):
            raise UserError(
                f"task.negatives.captioned: expected captions in which two words are seen at one place, got none among "
                f"the captions of {len(read)} examples"
            )
        return found


@dataclass(frozen=True, eq=False)
class WordChanges:
    """The words seen at each place, and pairs of synonyms in both orders."""

    config: WordNegatives
    seen: dict[Place, tuple[str, ...]]
    synonyms: frozenset[tuple[str, str]]

    @classmethod
    def of(cls, config: WordNegatives, examples: Iterable[Sequence[str]]) -> "WordChanges":
        """Collect the words of the captions of each example."""
        seen: dict[Place, dict[str, None]] = defaultdict(dict)
        examples_of, together = Counter[str](), Counter[tuple[str, str]]()
        for captions in examples:
            alike: dict[tuple[str, ...], set[str]] = defaultdict(set)  # words that complete one sentence
            for caption in captions:
                words = caption.split()
                for at, (word, place) in enumerate(zip(words, _places(words), strict=True)):
                    seen[place][word] = None
                    alike[*words[:at], "", *words[at + 1 :]].add(word)
            examples_of.update({word for found in alike.values() for word in found})
            together.update({pair for found in alike.values() for pair in combinations(sorted(found), 2)})
        synonyms = {
            pair for pair, count in together.items() if count > SYNONYMS * min(examples_of[word] for word in pair)
        }
        both = frozenset(synonyms | {(b, a) for a, b in synonyms})
        return cls(config, {place: tuple(words) for place, words in seen.items()}, both)

    @property
    def texts(self) -> int:
        """The number of wrong captions of each caption."""
        return self.config.texts

    @property
    def images(self) -> int:
        """The number of neighbours of an example: none."""
        return 0

    @property
    def blends(self) -> int:
        """The number of blends of an example: none."""
        return 0

    def blended(self, caption: str, size: int, seed: int) -> list[np.ndarray]:
        """Return no images."""
        del caption, size, seed
        return []

    def neighbours(self, caption: str, size: int, seed: int) -> list[Neighbour]:
        """Return no neighbours."""
        del caption, size, seed
        return []

    def wrong_captions(self, caption: str, seed: int) -> list[str]:
        """Return changed captions; they are empty texts if no change is known."""
        rng, words = random.Random(seed), caption.split()
        places = _places(words)
        swaps = [
            (i, j)
            for i, j in combinations(range(len(words)), 2)
            if self._fits(words[i], words[j], places[i]) and self._fits(words[j], words[i], places[j])
        ]
        others = [[one for one in self.seen.get(place, ()) if self._fits(word, one, place)]
                  for word, place in zip(words, places, strict=True)]  # fmt: skip
        replaceable = [i for i, found in enumerate(others) if found]
        if not swaps and not replaceable:
            return [""] * self.texts
        return [self._changed(words, swaps, replaceable, others, rng) for _ in range(self.texts)]

    def _fits(self, word: str, other: str, place: Place) -> bool:
        """Return True if another word was seen at a place, and means something else."""
        return other != word and other in self.seen.get(place, ()) and (word, other) not in self.synonyms

    @staticmethod
    def _changed(
        words: list[str],
        swaps: list[tuple[int, int]],
        replaceable: list[int],
        others: list[list[str]],
        rng: random.Random,
    ) -> str:
        changed = list(words)
        if swaps and (not replaceable or rng.random() < 0.5):
            i, j = rng.choice(swaps)
            changed[i], changed[j] = words[j], words[i]
        else:
            at = rng.choice(replaceable)
            changed[at] = rng.choice(others[at])
        return " ".join(changed)


def _places(words: Sequence[str]) -> list[Place]:
    """Return the place of each word."""
    framed = ["", *words, ""]
    return [(framed[i], framed[i + 2]) for i in range(len(words))]
