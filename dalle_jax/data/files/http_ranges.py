"""Parts of files that a web server offers, by HTTP's ranges (RFC 9110, section 14)."""

import http.client
import re
import time
import urllib.error
import urllib.request
from email.message import Message

from dalle_jax.config.errors import UserError

SCHEMES = ("https", "http")
TRIES = 4
FIRST_WAIT = 0.5
"""Seconds before the second try; each further one waits twice as long."""
TIMEOUT = 60.0

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_WORTH_ANOTHER_TRY = (408, 429, 500, 502, 503, 504)


def described(url: str) -> tuple[int, str]:
    """The bytes of a file, and what the server says that changes with it (ETag or date; empty if it says neither).

    Raises FileNotFoundError where there is none, UserError for a server that cannot be used.
    """
    _, whole, stamp = _get(url, 0, 1)
    return whole, stamp


def read_part(url: str, start: int, length: int) -> bytes:
    """``length`` bytes from ``start`` on, fewer where the file ends; raises as ``described``."""
    if length == 0:
        return b""
    return _get(url, start, length)[0]


def _get(url: str, start: int, length: int) -> tuple[bytes, int, str]:
    """The bytes of a part, those of the whole file, and its stamp. What may pass is tried again."""
    for attempt in range(TRIES):
        try:
            return _get_once(url, start, length)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise FileNotFoundError(url) from error
            if error.code == 416:  # nothing there: an empty file, or a start behind the end
                return b"", _size_of(error.headers.get("Content-Range", "")), _stamp(error.headers)
            if error.code not in _WORTH_ANOTHER_TRY or attempt == TRIES - 1:
                raise UserError(f"cannot read {url}: the server answers {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:
            if attempt == TRIES - 1:
                reason = str(error) or type(error).__name__
                raise UserError(f"cannot read {url} ({reason}); check the network") from error
        time.sleep(FIRST_WAIT * 2**attempt)
    raise AssertionError("the last try returns or raises")


def _get_once(url: str, start: int, length: int) -> tuple[bytes, int, str]:
    request = urllib.request.Request(
        url, headers={"Range": f"bytes={start}-{start + length - 1}", "Accept-Encoding": "identity"}
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT) as answer:
        found = _CONTENT_RANGE.fullmatch(answer.headers.get("Content-Range", ""))
        if answer.status != 206 or not found or int(found[1]) != start:
            raise UserError(f"{url}: the server gives no parts of files (HTTP's Range); copy the file and name that")
        content = answer.read(length)
        if len(content) != int(found[2]) - start + 1:
            raise http.client.IncompleteRead(content)
        return content, int(found[3]), _stamp(answer.headers)


def _size_of(content_range: str) -> int:
    size = content_range.rpartition("/")[2]
    return int(size) if size.isdigit() else 0


def _stamp(headers: Message) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""
