"""Byte ranges of files on a web server, by HTTP's Range header (RFC 9110, section 14)."""

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
"""Seconds before the second try. Each later try waits twice as long as the one before it."""
TIMEOUT = 60.0
"""Seconds without an answer after which a request fails."""

_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_RETRIED = (408, 429, 500, 502, 503, 504)


def size_and_stamp(url: str) -> tuple[int, str]:
    """Return a file's size in bytes and its version stamp.

    The stamp is the server's ETag, else the file's date, else an empty string.

    Raises FileNotFoundError if the file does not exist, and UserError if the server cannot be used.
    """
    _, size, stamp = _get(url, 0, 1)
    return size, stamp


def read_url_range(url: str, start: int, length: int) -> bytes:
    """Read ``length`` bytes from byte ``start`` on, fewer at the file's end.

    Raises the errors of ``size_and_stamp``.
    """
    if length == 0:
        return b""
    return _get(url, start, length)[0]


def _get(url: str, start: int, length: int) -> tuple[bytes, int, str]:
    """Return the content of a range, the size of the file, and its stamp. Retry after temporary errors."""
    for attempt in range(TRIES):
        try:
            return _get_once(url, start, length)
        except urllib.error.HTTPError as error:
            error.close()
            if error.code == 404:
                raise FileNotFoundError(url) from error
            if error.code == 416:  # an empty file, or a start beyond the end
                return b"", _size_of(error.headers.get("Content-Range", "")), _stamp(error.headers)
            if error.code not in _RETRIED or attempt == TRIES - 1:
                raise UserError(f"cannot read {url}: the server answered {error.code} {error.reason}") from error
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
            raise UserError(
                f"{url}: expected a server that sends byte ranges (HTTP's Range), got one that sends whole files; "
                f"copy the file to this machine"
            )
        content = answer.read(length)
        if len(content) != int(found[2]) - start + 1:
            raise http.client.IncompleteRead(content)
        return content, int(found[3]), _stamp(answer.headers)


def _size_of(content_range: str) -> int:
    size = content_range.rpartition("/")[2]
    return int(size) if size.isdecimal() else 0


def _stamp(headers: Message) -> str:
    return headers.get("ETag") or headers.get("Last-Modified") or ""
