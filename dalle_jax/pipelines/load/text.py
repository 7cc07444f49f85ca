"""Text tokenizers as files of a checkpoint: ``text.model``, or ``text.gin`` with the vocabulary's files."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from dalle_jax.config.bind import loads
from dalle_jax.config.errors import UserError
from dalle_jax.config.render import render
from dalle_jax.storage import Place
from dalle_jax.text.bart_bpe import BartBpe
from dalle_jax.text.clip_bpe import ClipBpe
from dalle_jax.text.glide_bpe import GlideBpe
from dalle_jax.text.sentencepiece import SentencePieceModel
from dalle_jax.text.tokenizer import TextTokenizer
from dalle_jax.untrusted import read_file, read_text_file

Vocabulary: TypeAlias = SentencePieceModel | ClipBpe | BartBpe | GlideBpe
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
    vocabulary, files = read_text(folder)
    return vocabulary.tokenizer(files, length)


def text_fingerprint(files: Mapping[str, bytes]) -> str:
    """Hash the files of a text tokenizer (``packed``); tokenizers with the same hash give the same ids."""
    return "text-" + hashlib.sha256(repr(sorted(files.items())).encode()).hexdigest()[:32]


def fingerprint_of_folder(folder: Place) -> str:
    """Hash the text tokenizer in the folder of a checkpoint."""
    return text_fingerprint(packed(*read_text(folder)))


def has_text(folder: Place) -> bool:
    """Return True if the folder of a checkpoint holds a text tokenizer."""
    return any((folder / name).is_file() for name in (FILE, *SentencePieceModel.NAMES))


def read_text(folder: Place) -> tuple[Vocabulary, dict[str, bytes]]:
    """Read the kind of vocabulary of a folder and its files. Raise ``UserError`` if it has none."""
    path = folder / FILE
    vocabulary: Vocabulary = SentencePieceModel()
    if path.is_file():
        file: TextFile = loads(read_text_file(path), TextFile, name=str(path))
        vocabulary = file.vocabulary
    files = {name: read_file(folder / name) for name in vocabulary.NAMES if (folder / name).is_file()}
    if not files:
        expected = " or ".join(vocabulary.NAMES)
        hint = "; import it again with --vocabulary FILE" if (folder / IMPORTED).is_file() else ""
        raise UserError(
            f"{folder}: expected {expected}, the text tokenizer that the model was trained with, found none{hint}"
        )
    return vocabulary, files
