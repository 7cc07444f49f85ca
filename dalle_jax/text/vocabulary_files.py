"""vocab.json and merges.txt, in which byte-level BPE is published: BART's, and CLIP's at Hugging Face.

Newer folders there have both in one tokenizer.json.
"""

import json

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import Pair, read_pairs, unpacked

VOCABULARY, MERGES = "vocab.json", "merges.txt"
BOTH = "tokenizer.json"


def both_files(path: str, whose: str) -> dict[str, bytes]:
    """``vocab.json``, which ``path`` names, and ``merges.txt`` beside it, or both out of a ``tokenizer.json``.

    Raises UserError where one is missing.
    """
    place = storage.place(path)
    if place.name == BOTH and place.is_file():
        return _from_one_file(place.read_bytes())
    found = {}
    for name, one in ((VOCABULARY, place), (MERGES, place.parent / MERGES)):
        if not one.is_file():
            raise UserError(
                f"captions.file: expected {whose}'s {VOCABULARY} with {MERGES} beside it, found no {name} at {one}"
            )
        found[name] = one.read_bytes()
    return found


def _from_one_file(content: bytes) -> dict[str, bytes]:
    """The two files that say what the BPE of a ``tokenizer.json`` says. Merges are pairs there, or text as of old."""
    try:
        found = json.loads(unpacked(content, BOTH))
        model = found["model"]
        kind, ids, merges = model["type"], dict(model["vocab"]), model["merges"]
        ids |= {one["content"]: one["id"] for one in found.get("added_tokens") or ()}
        lines = [one if isinstance(one, str) else " ".join(one) for one in merges]
    except (ValueError, RecursionError, LookupError, TypeError) as error:
        raise UserError(
            f"{BOTH}: expected a model with its type, vocab and merges, got something else: {error}"
        ) from error
    if kind != "BPE":
        raise UserError(f"{BOTH}: expected model.type BPE, got {str(kind)[:40]!r}")
    return {VOCABULARY: json.dumps(ids).encode(), MERGES: "\n".join(["#version: 0.2", *lines, ""]).encode()}


def read_merges(content: bytes) -> list[Pair]:
    """The merges of ``merges.txt`` in the order in which they were learned."""
    return read_pairs(unpacked(content, MERGES), MERGES)


def read_vocabulary(content: bytes, whose: str, needed: tuple[str, ...]) -> dict[str, int]:
    """Pieces and their ids. Raises UserError for a file that holds anything else or lacks one of ``needed``."""
    try:
        ids = json.loads(unpacked(content, VOCABULARY))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{VOCABULARY}: expected a JSON object of pieces and ids, got no JSON: {error}") from error
    if not isinstance(ids, dict) or not all(type(one) is int and 0 <= one < 2**31 for one in ids.values()):
        raise UserError(f"{VOCABULARY}: expected a JSON object of pieces and ids from 0, got something else")
    if missing := [one for one in needed if one not in ids]:
        raise UserError(f"{VOCABULARY}: expected {whose}'s {', '.join(missing)} among its pieces, found none")
    return ids
