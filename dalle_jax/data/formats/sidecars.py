"""Captions and metadata in files next to an image: a text file with a caption on each line, and a JSON file."""

import json
from collections.abc import Iterable

from dalle_jax.data.records import BadRecord, Metadata

MAX_TEXT_BYTES = 64 * 2**10
"""The largest caption file, in bytes."""
MAX_JSON_BYTES = 2**20
"""The largest JSON file, in bytes."""

IMAGES = ("jpg", "jpeg", "png", "webp")


def size_fault(kind: str, where: str, size: int, most: int) -> tuple[str, str]:
    """Return the kind and the reason of the BadRecord for an image, a caption or a JSON file that is too large."""
    return f"{kind} too large", f"its {kind} in {where} has {size:,} bytes, expected at most {most:,}"


def check_image(key: str, field: str, value: object, max_bytes: int) -> bytes:
    """Return the encoded image in a field. Raises BadRecord for a value that is empty, too large or not bytes."""
    if not isinstance(value, bytes) or not value:
        raise BadRecord(key, "no image", f"expected the bytes of an image in {field}, got none")
    if len(value) > max_bytes:
        raise BadRecord(key, *size_fault("image", field, len(value), max_bytes))
    return value


def caption_lines(key: str, content: bytes) -> list[str]:
    """Return the lines of a caption file that are not blank. Raises BadRecord if it is not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecord(
            key, "caption not utf-8", f"expected captions in UTF-8, got the byte {content[error.start]:#04x}"
        ) from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def json_fields(key: str, content: bytes) -> Metadata:
    """Parse the object in a JSON file. Raises BadRecord, of the kind "broken json", for other content."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRecord(key, "broken json", f"its json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadRecord(key, "broken json", f"expected a json object, got {type(found).__name__}")
    return found


def caption_texts(value: object) -> list[str]:
    """Return the captions in a field that holds a text or a list of texts.

    Blank texts and values of other types are left out.
    """
    values = value if isinstance(value, list) else [value]
    return [one.strip() for one in values if isinstance(one, str) and one.strip()]


def unique_captions(key: str, captions: Iterable[str]) -> tuple[str, ...]:
    """Return each caption once, in order. Raises BadRecord, of the kind "no caption", if there are none."""
    found = tuple(dict.fromkeys(captions))
    if not found:
        raise BadRecord(key, "no caption", "expected a caption that is not blank, got none")
    return found
