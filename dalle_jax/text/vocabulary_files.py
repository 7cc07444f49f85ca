"""vocab.json and merges.txt, in which byte-level BPE is published: BART's, and CLIP's at Hugging Face."""

import json

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.text.byte_pairs import Pair, read_pairs, unpacked

VOCABULARY, MERGES = "vocab.json", "merges.txt"


def both_files(path: str, whose: str) -> dict[str, bytes]:
    """``vocab.json``, which ``path`` names, and ``merges.txt`` beside it. Raises UserError where one is missing."""
    place = storage.place(path)
    found = {}
    for name, one in ((VOCABULARY, place), (MERGES, place.parent / MERGES)):
        if not one.is_file():
            raise UserError(
                f"captions.file: expected {whose}'s {VOCABULARY} with {MERGES} beside it, found no {name} at {one}"
            )
        found[name] = one.read_bytes()
    return found


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
