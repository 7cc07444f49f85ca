"""Text tokenizers as files of a checkpoint: ``text.model``, or ``text.gin`` with the vocabulary's files."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.storage import Place
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.clip_bpe import ClipBpe
from dalle_jax.text.sentencepiece import SentencePieceModel
from dalle_jax.text.tokenizer import TextTokenizer

Vocabulary: TypeAlias = SentencePieceModel | ClipBpe | BartBpe
FILE = "text.gin"
IMPORTED = "source.json"
"""The file in which ``import`` records where published weights came from."""


@dataclass(frozen=True)
class TextFile:
    """The content of ``text.gin``: the vocabulary's config, which has its kind and its options, such as ``lower``."""

    vocabulary: Vocabulary


def packed(vocabulary: Vocabulary, files: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the files of a checkpoint that hold a text tokenizer, as ``load_text`` reads them.

    A SentencePiece model needs no ``text.gin``.
    """
    config = {} if isinstance(vocabulary, SentencePieceModel) else {FILE: render(TextFile(vocabulary)).encode()}
    return {**config, **files}


def load_text(folder: Place, length: int) -> TextTokenizer:
    """Load the text tokenizer that a model was trained with, from the folder of its checkpoint."""
    path = folder / FILE
    vocabulary: Vocabulary = SentencePieceModel()
    if path.is_file():
        file: TextFile = loads(path.read_text(encoding="utf-8"), TextFile, name=str(path))
        vocabulary = file.vocabulary
    files = {name: (folder / name).read_bytes() for name in vocabulary.NAMES if (folder / name).is_file()}
    if not files:
        expected = " or ".join(vocabulary.NAMES)
        hint = "; import it again with --vocabulary FILE" if (folder / IMPORTED).is_file() else ""
        raise UserError(
            f"{folder}: expected {expected}, the text tokenizer that the model was trained with, found none{hint}"
        )
    return vocabulary.tokenizer(files, length)
