"""Prompts of every kind to what a transformer takes: texts to ids, classes, a text encoder's features of captions."""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np

from dalle_jax.arrays import Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.models.prompt_kinds import ByCaption, ByClass
from dalle_jax.text.tokenizer import TextTokenizer

Prompt: TypeAlias = str | int | np.ndarray
"""A text, a class, or features [t c] of a caption, as the model was made for."""

Reader: TypeAlias = TextTokenizer | ByClass | ByCaption
"""What a model's prompts are read with."""


def read_prompts(reader: Reader, prompts: Sequence[Prompt]) -> np.ndarray:
    """Ids int32 [P T], classes int32 [P] or features float32 [P T c]; UserError for prompts of another kind."""
    wanted, kind = (str, "a text") if isinstance(reader, TextTokenizer) else KINDS[type(reader)]
    for one in prompts:
        if not isinstance(one, wanted) or isinstance(one, bool):
            got = f"{one.dtype.name}{list(one.shape)}" if isinstance(one, np.ndarray) else f"{one!r:.60}"
            raise UserError(f"prompt: expected {kind}, for which this model was made, got {got}")
    if isinstance(reader, ByClass):
        return class_rows(list(prompts), reader, "prompt")
    if isinstance(reader, ByCaption):
        return feature_rows(list(prompts), reader, "prompt")
    return reader.encode_batch([str(one) for one in prompts])


KINDS: dict[type, tuple[Any, str]] = {
    ByClass: (int | np.integer, "the number of a class"),
    ByCaption: (np.ndarray, "the features [t c] of a caption"),
}


def class_rows(given: list[Any], kind: ByClass, where: str) -> Int[np.ndarray, " B"]:
    """Classes as the model takes them. ``where`` names in an error what they were given as."""
    rows = np.asarray(given)
    if rows.ndim != 1 or not np.issubdtype(rows.dtype, np.integer) or rows.min() < 0 or rows.max() >= kind.classes:
        raise UserError(
            f"{where}: expected a class from 0 to {kind.classes - 1} for each image, got "
            f"{rows.dtype.name}{list(rows.shape)} from {rows.min()} to {rows.max()}"
        )
    return rows.astype(np.int32)


def feature_rows(given: list[Any], kind: ByCaption, where: str) -> Float[np.ndarray, "B T c"]:
    """Features [t c] of captions, cut to the model's length, padding before them as LlamaGen has it.

    Rows of zeros before and after a caption are padding.
    """
    rows = np.zeros((len(given), kind.length, kind.width), np.float32)
    for row, one in zip(rows, given, strict=True):
        features = np.asarray(one)
        fine = features.ndim == 2 and features.shape[1] == kind.width and np.issubdtype(features.dtype, np.floating)
        said = np.flatnonzero(features.any(axis=1)) if fine else np.zeros(0)
        if not said.size:
            raise UserError(
                f"{where}: expected features of {kind.width} numbers for each token of a caption, got "
                f"{'only zeros in ' if fine else ''}{features.dtype.name}{list(features.shape)}"
            )
        features = features[said[0] : said[-1] + 1][: kind.length]
        row[kind.length - len(features) :] = features
    return rows
