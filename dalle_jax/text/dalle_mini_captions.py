"""Caption cleaning of DALL·E mini and mega (``normalize_text`` in their configs): Dayma et al. 2021, text.py.

1. Encodings and HTML entities are repaired.
2. Emoji are replaced by their names; other text is converted to ASCII and lower case.
3. References, tags, addresses and needless signs are removed.
4. Punctuation becomes commas, except decimal points, dates and the apostrophes of "it's".
5. Hashtags are split into words.

A cleaned caption begins with a space, so that BART's tokenizer sees each word with a space before it.
"""

import html
import importlib
import math
import re
from collections.abc import Callable

import ftfy

from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.text.byte_pairs import read_text

FREQUENCIES = "enwiki-words-frequency.txt"
"""A file of the published model: a word and its count on each line, the most frequent first."""

Rule = tuple[str, str]
TextFunction = Callable[[str], str]

_DOT, _QUOTE, _SLASH = (f"xtokx{name}xtokx" for name in ("dot", "quote", "slash"))
"""Placeholders for signs that cleaning must keep.

They are the published ones, since a hashtag may contain one when it is split into words.
"""

_MARKUP: tuple[Rule, ...] = (
    (r"<person>([,\s]*(and)*[,\s]*<person>)+", " people "),  # Conceptual Captions' placeholder for names
    (r"<person>", " a person "),
    (r"\A\s*\[\d+\]", ""),  # Wikipedia's references
    (r"\[\d+\]\s*\Z", ""),
    (r"<[^<]+?>", " "),
    (r"http\S+", ""),
)
_SIGNS: tuple[Rule, ...] = (
    *((r"(\d),(\d{3})", r"\1\2"),) * 2,  # 1,234,567: applied twice, since matches do not overlap
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
    (r"(\D)\1{3,}", r"\1"),  # four or more equal characters; three may be a roman number
    (r"(?:\s*\"+\s*)+", ' " '),
    (r"(?:\s*,+\s*)+", ", "),
    (r"\s+", " "),
)


def clean(caption: str, demojize: TextFunction, to_ascii: TextFunction, split_hashtag: TextFunction) -> str:
    """Clean a caption; ``split_hashtag`` puts spaces between the words of a hashtag.

    The published code replaces each <person> by one of three phrases at random. Here it is always the likeliest of
    them.
    """
    text = html.unescape(html.unescape(ftfy.fix_text(caption)))
    text = to_ascii(demojize(text)).lower()
    text = _apply(_apply(text, _MARKUP), _SIGNS)
    text = re.sub(r"#(\w+)", lambda found: split_hashtag(found[1]), text)
    text = _apply(text, _PUNCTUATION).strip()
    return " " + text.removesuffix(",").removeprefix(",").strip()


def _apply(text: str, rules: tuple[Rule, ...]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


class HashtagSplitter:
    """A splitter of text without spaces into its likeliest words. Using the n-th most frequent word costs ln n."""

    def __init__(self, content: bytes):
        lines = read_text(content, FREQUENCIES).splitlines()
        ranks = {line.split()[0]: rank for rank, line in enumerate(lines, 1) if line.strip()}
        if not ranks:
            raise UserError(f"{FREQUENCIES}: expected a word and its count on each line, got none")
        self._costs = {word: math.log(rank) for word, rank in ranks.items()}
        self._longest = max(map(len, ranks))

    def __call__(self, text: str) -> str:
        """Return the words of ``text`` with spaces between them; punctuation is removed."""
        parts = re.split(r"[^a-zA-Z0-9']+", text)
        return " ".join(word for part in parts for word in self._rejoin(self._split(part)))

    def _split(self, part: str) -> list[str]:
        """Return the words with the least total cost, found by dynamic programming.

        Of equal costs the shorter last word wins.

        Text that known words cannot make up is split into letters.
        """
        best: list[tuple[float, int]] = [(0.0, 0)]  # for each prefix: its cost, and the length of its last word
        for end in range(1, len(part) + 1):
            lengths = range(1, min(end, self._longest) + 1)
            costs = ((best[end - n][0] + self._costs.get(part[end - n : end].lower(), math.inf), n) for n in lengths)
            best.append(min(costs))
        words, end = [], len(part)
        while end > 0:
            words.append(part[end - best[end][1] : end])
            end -= best[end][1]
        return words[::-1]

    def _rejoin(self, words: list[str]) -> list[str]:
        """Join "'s" to the word before it, and join digits that follow each other."""
        joined: list[str] = []
        for word in reversed(words):
            following = joined[0] if joined else ""
            digits = word[-1].isdigit() and following[:1].isdigit()
            if word != "'" and (following == "'s" or digits):
                joined[0] = word + following
            else:
                joined.insert(0, word)
        return joined


def make_cleaner(frequencies: bytes | None) -> TextFunction:
    """Return a function that cleans a caption by ``clean`` and the packages ``emoji`` and ``unidecode``.

    Raises ``UserError`` if a package is missing.

    ``frequencies`` is the content of the word-frequency file; without it, hashtags are not split.
    """
    demojize, to_ascii = _import_function("emoji", "demojize"), _import_function("unidecode", "unidecode")
    split: TextFunction = (lambda text: text) if frequencies is None else HashtagSplitter(frequencies)
    return lambda caption: clean(caption, demojize, lambda text: text if text.isascii() else to_ascii(text), split)


def _import_function(package: str, name: str) -> TextFunction:
    try:
        return getattr(importlib.import_module(package), name)
    except ModuleNotFoundError as error:
        raise UserError(
            f"captions.vocabulary.cleaning = 'dalle_mini': expected the package {package}, found none; "
            + install_hint("dalle-mini")
        ) from error
