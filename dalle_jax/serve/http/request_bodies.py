"""Bodies of requests, bounded before and while they are read: JSON, and forms with files."""

import asyncio
import re
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from pydantic import ValidationError
from starlette.datastructures import FormData, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from dalle_jax.serve.http.api_errors import ApiError, refused
from dalle_jax.serve.http.image_bodies import FILES, ImagesBody
from dalle_jax.untrusted import parse_json

MOST_JSON = 1_000_000
"""Bytes of a JSON body; a prompt of 32,000 characters takes at most 384,000."""
MOST_FORM = 64_000_000
"""Bytes of a form with all its files."""
MOST_FILE = 50_000_000
"""Bytes of one file."""
MOST_TEXT_PART = 200_000
"""Bytes of one text field of a form."""
BODY_SECONDS = 120.0
"""Longest time for a body to arrive."""

Body = TypeVar("Body", bound=ImagesBody)
T = TypeVar("T")


@dataclass
class Form:
    """The text fields and the files of a form, by name."""

    texts: dict[str, str] = field(default_factory=dict)
    files: dict[str, list[bytes]] = field(default_factory=dict)


def _too_large(most: int) -> ApiError:
    return ApiError(413, f"expected a body of at most {most:,} bytes", code="request_too_large")


def _bounded(request: Request, most: int) -> Request:
    """Return the request with a body that ends in a 413 beyond ``most`` bytes, before more is read."""
    stated = request.headers.get("content-length", "")
    if stated.isdecimal() and int(stated[:20]) > most:
        raise _too_large(most)
    count = 0

    async def receive() -> Message:
        nonlocal count
        message = await request.receive()
        count += len(message.get("body", b""))
        if count > most:
            raise _too_large(most)
        return message

    return Request(request.scope, receive)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


async def read_json(request: Request) -> dict[str, object]:
    """Read a JSON object. The type must be stated, since pages of other origins can send other types unasked."""
    if _media_type(request) != "application/json":
        raise ApiError(415, "Content-Type: expected application/json", code="unsupported_media_type")
    content = await _in_time(_bounded(request, MOST_JSON).body())
    try:
        found = parse_json(content, unique_names=True)
    except ValueError as error:
        raise ApiError(400, f"expected JSON, got {error}", code="invalid_json") from error
    if not isinstance(found, dict):
        raise ApiError(400, f"expected a JSON object, got {type(found).__name__}", code="invalid_json")
    return found


async def receive_form(request: Request, kind: type[ImagesBody]) -> FormData:
    """Receive a form; its large files are on disk until it is closed."""
    if _media_type(request) != "multipart/form-data":
        raise ApiError(415, "Content-Type: expected multipart/form-data", code="unsupported_media_type")
    files = sum(FILES[kind].values()) + 1
    try:
        return await _in_time(
            _bounded(request, MOST_FORM).form(max_files=files, max_fields=64, max_part_size=MOST_TEXT_PART)
        )
    except HTTPException as error:
        raise ApiError(400, f"expected a form, got: {error.detail}", code="invalid_form") from error
    except (ValueError, UnicodeError) as error:  # of headers that are no text
        raise ApiError(400, "expected a form, got one that is broken", code="invalid_form") from error


async def read_form(received: FormData, kind: type[ImagesBody]) -> Form:
    """Read a form. A field may end in [], and a file may be of any name and type; its bytes say what it is."""
    found = Form()
    for name, value in received.multi_items():
        await _take(found, FILES[kind], re.sub(r"\[.*$", "", name, flags=re.DOTALL), value)
    return found


async def _take(found: Form, allowed: Mapping[str, int], name: str, value: UploadFile | str) -> None:
    if isinstance(value, str):
        if name in allowed:
            raise refused(name, "expected a file, got text", "invalid_type")
        if name in found.texts and name != "svg":
            raise refused(name, "expected one value, got several", "invalid_value")
        found.texts[name] = value
        return
    if name not in allowed:
        raise refused(name[:60], "expected no file of this name", "unknown_parameter")
    files = found.files.setdefault(name, [])
    if len(files) == allowed[name]:
        raise refused(name, f"expected at most {allowed[name]}, got more", "too_many_files")
    content = await value.read(MOST_FILE + 1)
    if len(content) > MOST_FILE:
        raise refused(name, f"expected a file of at most {MOST_FILE:,} bytes", "file_too_large")
    files.append(content)


async def _in_time(reading: Awaitable[T]) -> T:
    try:
        async with asyncio.timeout(BODY_SECONDS):
            return await reading
    except TimeoutError as error:
        raise ApiError(408, f"expected the body within {BODY_SECONDS:.0f} s", retry=True) from error
    except ClientDisconnect as error:
        raise ApiError(499, "the client went away") from error


def validated(kind: type[Body], given: Mapping[str, object], *, strings: bool = False) -> Body:
    """Return the body of these fields; of ``strings`` for a form. Raise the 400 of the first wrong one."""
    try:
        if strings:
            return kind.model_validate_strings(dict(given))
        return kind.model_validate(dict(given), strict=True)
    except ValidationError as error:
        raise _of_validation(error) from error


def _of_validation(error: ValidationError) -> ApiError:
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0])[:60] if first["loc"] else None
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"Unknown parameter: '{name}'.", param=name, code="unknown_parameter")
    if first["type"] == "missing":
        return ApiError(400, f"Missing required parameter: '{name}'.", param=name, code="missing_required_parameter")
    got = f"{first['input']!r:.60}"
    return ApiError(400, f"{name}: {first['msg'].lower()}, got {got}", param=name, code="invalid_value")
