"""The files of a published byte-level BPE: vocab.json with merges.txt, or Hugging Face's newer tokenizer.json."""

import json

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import Pair, parse_merges, read_text
from dalle_jax.untrusted import parse_json, read_file

VOCABULARY, MERGES = "vocab.json", "merges.txt"
TOKENIZER = "tokenizer.json"


def read_bpe_files(path: str, publisher: str) -> dict[str, bytes]:
    """Read ``vocab.json`` at ``path`` and ``merges.txt`` next to it, or extract both from a ``tokenizer.json``.

    Raises ``UserError`` if a file is missing.
    """
    place = storage.place(path)
    if place.name == TOKENIZER and place.is_file():
        return _split_tokenizer_json(read_file(place))
    found = {}
    for name, file in ((VOCABULARY, place), (MERGES, place.parent / MERGES)):
        if not file.is_file():
            raise UserError(
                f"captions.file: expected {publisher}'s {VOCABULARY} with {MERGES} next to it, "
                f"found no {name} at {file}"
            )
        found[name] = read_file(file)
    return found


def _split_tokenizer_json(content: bytes) -> dict[str, bytes]:
    """Convert the content of a ``tokenizer.json`` to the contents of ``vocab.json`` and ``merges.txt``.

    A merge in it is a list of two pieces, or, in older files, one string with a space between them.
    """
    try:
        found = parse_json(read_text(content, TOKENIZER).encode())
        if not isinstance(found, dict):
            raise TypeError(f"a {type(found).__name__}")
        model = found["model"]
        kind, ids, merges = model["type"], dict(model["vocab"]), model["merges"]
        ids |= {one["content"]: one["id"] for one in found.get("added_tokens") or ()}
        lines = [one if isinstance(one, str) else " ".join(one) for one in merges]
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(
            f"{TOKENIZER}: expected a model with its type, vocab and merges, got something else: {error}"
        ) from error
    if kind != "BPE":
        raise UserError(f"{TOKENIZER}: expected model.type BPE, got {str(kind)[:40]!r}")
    return {VOCABULARY: json.dumps(ids).encode(), MERGES: "\n".join(["#version: 0.2", *lines, ""]).encode()}


def read_merges(content: bytes) -> list[Pair]:
    """Parse the content of ``merges.txt`` to pairs of pieces, in the order in which they were learned."""
    return parse_merges(read_text(content, MERGES), MERGES)


def read_vocabulary(content: bytes, publisher: str, required: tuple[str, ...]) -> dict[str, int]:
    """Parse the content of ``vocab.json`` to a dict from piece to id.

    Raises ``UserError`` for other content, and if a piece of ``required`` is missing.
    """
    try:
        ids = parse_json(read_text(content, VOCABULARY).encode())
    except ValueError as error:
        raise UserError(f"{VOCABULARY}: expected a JSON object of pieces and ids, got invalid JSON: {error}") from error
    if not isinstance(ids, dict) or not all(type(one) is int and 0 <= one < 2**31 for one in ids.values()):
        raise UserError(f"{VOCABULARY}: expected a JSON object of pieces and ids from 0, got something else")
    if missing := [one for one in required if one not in ids]:
        raise UserError(f"{VOCABULARY}: expected {publisher}'s {', '.join(missing)} among its pieces, found none")
    return ids
