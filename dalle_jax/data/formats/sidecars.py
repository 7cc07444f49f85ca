"""What stands beside an image: captions as lines of a text, and a JSON object that says more of it."""

import json
from collections.abc import Iterable
from typing import Any

from dalle_jax.config.errors import UserError
from dalle_jax.data.records import BadRecord

MOST_OF_A_TEXT = 64 * 2**10
MOST_OF_A_JSON = 2**20
"""Bytes. What is larger is no caption, and nothing that is worth the memory."""

IMAGES = ("jpg", "jpeg", "png", "webp")


def too_large(what: str, where: str, size: int, most: int) -> tuple[str, str]:
    """Kind and reason of the BadRecord for an image, a caption or a json beyond its limit."""
    return f"{what} too large", f"its {what} in {where} has {size:,} bytes, expected at most {most:,}"


def image(key: str, field: str, value: object, max_bytes: int) -> bytes:
    """The encoded image in a field. BadRecord if there are no bytes, or too many."""
    if not isinstance(value, bytes) or not value:
        raise BadRecord(key, "no image", f"its {field} holds no bytes")
    if len(value) > max_bytes:
        raise BadRecord(key, *too_large("image", field, len(value), max_bytes))
    return value


def lines(key: str, content: bytes) -> list[str]:
    """The captions of a text file: each line that is not blank is one. BadRecord if it is not UTF-8."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadRecord(key, "caption not utf-8", f"its text has the byte {content[error.start]:#04x}") from error
    return [line.strip() for line in text.split("\n") if line.strip()]


def fields(key: str, content: bytes) -> dict[str, Any]:
    """The object in a JSON file. BadRecord, of the kind "broken json", if there is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise BadRecord(key, "broken json", f"its json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadRecord(key, "broken json", f"expected a json object, got {type(found).__name__}")
    return found


def said(value: object) -> list[str]:
    """The captions in a field: a text or a list of texts. Blank ones, and what is no text, are none."""
    values = value if isinstance(value, list) else [value]
    return [one.strip() for one in values if isinstance(one, str) and one.strip()]


def distinct(key: str, captions: Iterable[str]) -> tuple[str, ...]:
    """Each caption once, in their order. BadRecord, of the kind "no caption", if there is none."""
    found = tuple(dict.fromkeys(captions))
    if not found:
        raise BadRecord(key, "no caption", "its captions are empty")
    return found


def check(what: str, images: tuple[str, ...], max_bytes: int, problems: list[str]) -> None:
    """Raises UserError with all ``problems`` of a configuration, and of the fields that sources of files share."""
    if not images or not all(one and one == one.lower().strip(".") for one in images):
        problems.append(f"images must be extensions in small letters and without a dot, got {images}")
    if max_bytes < 1:
        problems.append(f"max_bytes must be at least 1, got {max_bytes}")
    if problems:
        raise UserError(f"{what}: " + "; ".join(problems))
