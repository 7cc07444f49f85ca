"""Conversion of prompts (texts, classes or caption features) to the inputs of a transformer."""

from collections.abc import Iterator, Sequence
from typing import Protocol, TypeAlias, TypeVar, runtime_checkable

import numpy as np

from dalle_jax.arrays import Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.text.tokenizer import TextTokenizer

Prompt: TypeAlias = str | int | np.ndarray
"""A text, the number of a class, or features [t c] of a caption; a model takes one of the three."""

MAX_NAMED = 5
"""Largest number of prompts that a warning names."""

Kind = TypeVar("Kind", str, int, np.ndarray)


@runtime_checkable
class PromptReader(Protocol):
    """A reader of the prompts that a transformer was trained on."""

    @property
    def length(self) -> int:
        """The text length T to which prompts are truncated."""
        ...

    def read(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Return ids int32 [P T], classes int32 [P] or features float32 [P T c].

        Raises UserError for a prompt of a different kind.
        """
        ...

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the number of tokens of each prompt, before it is truncated to ``length``."""
        ...

    def unreadable(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the places of the prompts of which no token is known, although they are not empty."""
        ...


class TextPrompts:
    """A reader of texts."""

    def __init__(self, tokenizer: TextTokenizer) -> None:
        self.tokenizer = tokenizer
        self.length = tokenizer.length

    def read(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Encode texts."""
        return self.tokenizer.encode_batch(_all_of(prompts, str, "a text"))

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the number of ids of each text."""
        return self.tokenizer.lengths(_all_of(prompts, str, "a text"))

    def unreadable(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the places of the texts that are not empty, but of whose letters the tokenizer knows none."""
        texts = _all_of(prompts, str, "a text")
        rows = self.tokenizer.encode_batch(texts)  # [P T]
        known = [[one for one in row.tolist() if one != self.tokenizer.unknown_id] for row in rows]
        return [
            place
            for place, (text, ids) in enumerate(zip(texts, known, strict=True))
            if text.strip() and not self.tokenizer.decode(ids).strip()
        ]


class ClassPrompts:
    """A reader of class numbers."""

    length = 1

    def __init__(self, condition: ByClass) -> None:
        self.condition = condition

    def read(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Check the numbers of classes."""
        classes = [int(one) if isinstance(one, np.integer) else one for one in prompts]
        return class_rows(_all_of(classes, int, "the number of a class"), self.condition, "prompt")

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return 1 for each class."""
        return [1] * len(prompts)

    def unreadable(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return nothing, since every class is known."""
        del prompts
        return []


class FeaturePrompts:
    """A reader of caption features."""

    def __init__(self, condition: ByCaption) -> None:
        self.condition = condition
        self.length = condition.length

    def read(self, prompts: Sequence[Prompt]) -> np.ndarray:
        """Pad features to ``length``."""
        features = _all_of(prompts, np.ndarray, "the features [t c] of a caption")
        return feature_rows(features, self.condition, "prompt")

    def lengths(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return the number of tokens of each caption."""
        features = _all_of(prompts, np.ndarray, "the features [t c] of a caption")
        return [len(_without_padding(one)) for one in features]

    def unreadable(self, prompts: Sequence[Prompt]) -> list[int]:
        """Return nothing, since features are numbers."""
        del prompts
        return []


def prompt_warnings(reader: PromptReader, name: str, prompts: Sequence[Prompt], what: str = "prompts") -> Iterator[str]:
    """Yield a warning if prompts are truncated, and one if none of their letters are known. ``name`` is the model's."""
    if not prompts:
        return
    lengths = reader.lengths(prompts)
    if long := [place for place, length in enumerate(lengths) if length > reader.length]:
        named = ", ".join(f"number {place + 1} has {lengths[place]}" for place in long[:MAX_NAMED])
        count = f"{len(long)} of {len(prompts)} {what}"
        yield f"WARNING: {count} were truncated to the {reader.length} tokens of {name} ({named})"
    if unknown := reader.unreadable(prompts):
        named = ", ".join(f"number {place + 1}" for place in unknown[:MAX_NAMED])
        yield f"WARNING: {name} knows no letter of {len(unknown)} of {len(prompts)} {what} ({named})"


def _all_of(prompts: Sequence[Prompt], kind: type[Kind], description: str) -> list[Kind]:
    """Return the prompts; raise UserError for one of a different kind."""
    found = []
    for one in prompts:
        if not isinstance(one, kind) or isinstance(one, bool):
            got = f"{one.dtype.name}{list(one.shape)}" if isinstance(one, np.ndarray) else f"{one!r:.60}"
            raise UserError(f"prompt: expected {description}, for which this model was made, got {got}")
        found.append(one)
    return found


def class_rows(given: Sequence[int | np.integer | np.ndarray], condition: ByClass, name: str) -> Int[np.ndarray, " B"]:
    """Return class numbers as the model takes them; errors call them ``name``."""
    rows = np.asarray(given)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= condition.classes:
        raise UserError(
            f"{name}: expected a class from 0 to {condition.classes - 1} for each image, got "
            f"{rows.dtype.name}{list(rows.shape)} from {rows.min()} to {rows.max()}"
        )
    return rows.astype(np.int32)


def feature_rows(given: Sequence[np.ndarray], condition: ByCaption, name: str) -> Float[np.ndarray, "B T c"]:
    """Truncate caption features [t c] to the model's length, and pad them in front, as LlamaGen does.

    Rows of zeros before and after a caption are taken for padding. Errors call the features ``name``.
    """
    rows = np.zeros((len(given), condition.length, condition.width), np.float32)
    for row, one in zip(rows, given, strict=True):
        features = np.asarray(one)
        valid = (
            features.ndim == 2 and features.shape[1] == condition.width and np.issubdtype(features.dtype, np.floating)
        )
        words = _without_padding(features) if valid else features[:0]
        if not len(words):
            raise UserError(
                f"{name}: expected features of {condition.width} numbers for each token of a caption, got "
                f"{'only zeros in ' if valid else ''}{features.dtype.name}{list(features.shape)}"
            )
        words = words[: condition.length]
        row[condition.length - len(words) :] = words
    return rows


def _without_padding(features: Float[np.ndarray, "t c"]) -> Float[np.ndarray, "n c"]:
    """Remove rows of zeros before and after a caption."""
    words = np.flatnonzero(features.any(axis=1))
    return features[words[0] : words[-1] + 1] if words.size else features[:0]
