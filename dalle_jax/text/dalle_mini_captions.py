"""Captions as DALL·E mini and mega were shown them (``normalize_text`` in their configs): Dayma et al. 2021, text.py.

Encodings and HTML are mended, emoji named, the rest brought to ASCII and lower case; references, tags, addresses and
needless signs go, all punctuation becomes commas but for decimal points, dates and the apostrophes of "it's"; hashtags
are split into words. What comes out begins with a space, so that BART's tokenizer sees each word with one.
"""

import html
import importlib
import math
import re
from collections.abc import Callable
from typing import Any

import ftfy

from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import unpacked

WORDS = "enwiki-words-frequency.txt"
"""A word and its count on each line, the most frequent first; it lies in the published model's folder."""

Rule = tuple[str, str]
Words = Callable[[str], str]

_DOT, _QUOTE, _SLASH = (f"xtokx{name}xtokx" for name in ("dot", "quote", "slash"))
"""Stand for signs that are kept, made of letters; a hashtag may be split with one inside, so these are as published."""

_MARKUP: tuple[Rule, ...] = (
    (r"<person>([,\s]*(and)*[,\s]*<person>)+", " people "),  # as Conceptual Captions hide names
    (r"<person>", " a person "),
    (r"\A\s*\[\d+\]", ""),  # Wikipedia's references
    (r"\[\d+\]\s*\Z", ""),
    (r"<[^<]+?>", " "),
    (r"http\S+", ""),
)
_SIGNS: tuple[Rule, ...] = (
    *((r"(\d),(\d{3})", r"\1\2"),) * 2,  # 1,234,567; once more, since matches do not overlap
    (r"(\w)\.(\w)", rf"\1{_DOT}\2"),
    (r"'(?=(?:[stdm]|ll|re|ve)\b)", _QUOTE),
    (r"(\d)/(\d)", rf"\1{_SLASH}\2"),
    (r"(\w)-(\w)", r"\1 \2"),
    (r"([%&/$*])", r" \1 "),
)
_PUNCTUATION: tuple[Rule, ...] = (
    (r"[_#\\]", " "),
    (r"['\"`]", ' " '),
    (r"[()\[\].,|:;?!=+~\-/{}]", ","),
    (_DOT, "."),
    (_QUOTE, "'"),
    (_SLASH, "/"),
    (r"(\D)\1{3,}", r"\1"),  # four or more of one; three may be a roman number
    (r"(?:\s*\"+\s*)+", ' " '),
    (r"(?:\s*,+\s*)+", ", "),
    (r"\s+", " "),
)


def clean(caption: str, demojize: Callable[[str], str], to_ascii: Callable[[str], str], words: Words) -> str:
    """The caption as the model is shown it; ``words`` parts the words of a hashtag with spaces.

    Published, each <person> becomes one of three phrases by chance; here it is always the likeliest of them.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(caption)))
    text = to_ascii(demojize(text)).lower()
    text = _ruled(_ruled(text, _MARKUP), _SIGNS)
    text = re.sub(r"#(\w+)", lambda found: words(found[1]), text)
    text = _ruled(text, _PUNCTUATION).strip()
    return " " + text.removesuffix(",").removeprefix(",").strip()


def _ruled(text: str, rules: tuple[Rule, ...]) -> str:
    for pattern, instead in rules:
        text = re.sub(pattern, instead, text)
    return text


class HashtagWords:
    """Parts what is written without spaces into the likeliest words: the n-th most frequent word costs ln n."""

    def __init__(self, content: bytes):
        lines = unpacked(content, WORDS).splitlines()
        ranks = {line.split()[0]: rank for rank, line in enumerate(lines, 1) if line.strip()}
        if not ranks:
            raise UserError(f"{WORDS}: expected a word and its count on each line, got none")
        self._costs = {word: math.log(rank) for word, rank in ranks.items()}
        self._longest = max(map(len, ranks))

    def __call__(self, text: str) -> str:
        """The words with spaces between them; signs between words are left out."""
        parts = re.split(r"[^a-zA-Z0-9']+", text)
        return " ".join(word for part in parts for word in self._joined(self._cut(part)))

    def _cut(self, part: str) -> list[str]:
        """The cut of the least cost, with the shorter last word where two are equal; letters where no words fit."""
        best: list[tuple[float, int]] = [(0.0, 0)]  # of each beginning: its cost, and the length of its last word
        for end in range(1, len(part) + 1):
            lengths = range(1, min(end, self._longest) + 1)
            costs = ((best[end - n][0] + self._costs.get(part[end - n : end].lower(), math.inf), n) for n in lengths)
            best.append(min(costs))
        words, end = [], len(part)
        while end > 0:
            words.append(part[end - best[end][1] : end])
            end -= best[end][1]
        return words[::-1]

    def _joined(self, words: list[str]) -> list[str]:
        """A split 's goes back to its word, and digits to the digits after them."""
        joined: list[str] = []
        for word in reversed(words):
            behind = joined[0] if joined else ""
            digits = word[-1].isdigit() and behind[:1].isdigit()
            if word != "'" and (behind == "'s" or digits):
                joined[0] = word + behind
            else:
                joined.insert(0, word)
        return joined


def cleaner(words: bytes | None) -> Callable[[str], str]:
    """``clean`` with the packages that it needs; without a file of words a hashtag stays one. UserError for no package.

    ``words`` is the content of the file.
    """
    demojize, to_ascii = (_function(package, name) for package, name in (("emoji", "demojize"), ("unidecode",) * 2))
    split: Words = (lambda text: text) if words is None else HashtagWords(words)
    return lambda caption: clean(caption, demojize, lambda text: text if text.isascii() else to_ascii(text), split)


def _function(package: str, name: str) -> Any:
    try:
        return getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"captions.vocabulary.cleans = 'dalle_mini': expected the package {package}, found none; "
            "install it: pip install 'dalle-jax[dalle-mini]'"
        ) from error
