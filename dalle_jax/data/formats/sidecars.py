"""Captions and metadata in files next to an image: a text file with a caption on each line, and a JSON file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from dalle_jax.data.records import BadRecord, Metadata
from dalle_jax.untrusted import parse_json

MAX_TEXT_BYTES = 64 * 2**10
"""The largest caption file, in bytes."""
MAX_JSON_BYTES = 2**20
"""The largest JSON file, in bytes."""

IMAGES = ("jpg", "jpeg", "png", "webp", "jfif", "gif", "bmp", "tif", "tiff", "avif")
"""File extensions of the formats that images/decode.py reads. A tar's sample uses the first that it has."""
TEXTS = ("txt", "caption", "cap")
"""File extensions of texts next to an image, with a caption on each line."""
MAX_FIELDS_NAMED = 12


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
        found = parse_json(content)
    except ValueError as error:
        raise BadRecord(key, "broken json", f"its json cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise BadRecord(key, "broken json", f"expected a json object, got {type(found).__name__}")
    return found


class FieldCaptions(NamedTuple):
    """The captions in fields, and the kind and the reason of the BadRecord if there are none."""

    texts: list[str]
    fault: tuple[str, str] | None


def captions_in(fields: Mapping[str, object], names: Sequence[str]) -> FieldCaptions:
    """Return the captions in the fields ``names``: texts, bytes in UTF-8, or lists of these.

    Blank texts and values of other types are left out. If no caption is left, the reason says what the fields hold.
    """
    present = {name: fields[name] for name in names if name in fields}
    values = [one for value in present.values() for one in (value if isinstance(value, list | tuple) else [value])]
    texts = [text for value in values if (text := _as_text(value))]
    if texts:
        return FieldCaptions(texts, None)
    if not present:
        got = ", ".join(map(str, list(fields)[:MAX_FIELDS_NAMED])) or "none"
        got += f" and {len(fields) - MAX_FIELDS_NAMED} more" if len(fields) > MAX_FIELDS_NAMED else ""
        return FieldCaptions([], ("no caption", f"expected a field {' or '.join(names)}, got the fields {got}"))
    got = ", ".join(f"{_describe(value)} in {name}" for name, value in present.items())
    wrong = any(_is_no_text(value) for value in values)
    return FieldCaptions(
        [], ("caption not a text" if wrong else "no caption", f"expected a text that is not blank, got {got}")
    )


def _as_text(value: object) -> str:
    """Return a text or bytes in UTF-8 without blanks at its ends, or "" for other values."""
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8-sig")
        except UnicodeDecodeError:
            return ""
    return value.strip() if isinstance(value, str) else ""


def _is_no_text(value: object) -> bool:
    """Return True for a value that is neither a text nor absent: a number, an object, or bytes that are not UTF-8."""
    return bool(value.strip()) if isinstance(value, bytes) else not isinstance(value, str | None)


def _describe(value: object) -> str:
    if isinstance(value, bytes) and value.strip():
        return "bytes that are not UTF-8"
    if isinstance(value, str | bytes):
        return "a blank text"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)} without a text"
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]}"


def unique_captions(key: str, captions: Iterable[str], fault: tuple[str, str] | None = None) -> tuple[str, ...]:
    """Return each caption once, in order. Raises BadRecord if there are none, with the kind and reason of ``fault``."""
    found = tuple(dict.fromkeys(captions))
    if not found:
        raise BadRecord(key, *(fault or ("no caption", "expected a caption that is not blank, got none")))
    return found
