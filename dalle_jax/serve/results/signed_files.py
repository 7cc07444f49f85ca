"""Finished files behind URLs that nobody can guess and that expire, in a private temporary folder."""

import contextlib
import hashlib
import hmac
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

VALID_SECONDS = 3600
"""Seconds for which a URL is valid, as those of the API."""
MOST_BYTES = 2**30
"""Largest total size of all files; the oldest are removed beyond it."""
MOST_FILES = 20_000
"""Largest number of files."""


@dataclass(frozen=True)
class _StoredFile:
    path: Path
    media_type: str
    expires: int
    size: int


class SignedFiles:
    """Files by random names, each served to whoever has its URL.

    The name comes from this class alone: a request's name is only looked up, so that it never becomes a path. The
    signature covers name and expiry, under a key of this process.
    """

    def __init__(self, *, seconds: int = VALID_SECONDS, most_bytes: int = MOST_BYTES) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="dalle_jax-files-")
        self._seconds, self._most, self._bytes = seconds, most_bytes, 0
        self._key = secrets.token_bytes(32)
        self._files: OrderedDict[str, _StoredFile] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, content: bytes, suffix: str, media_type: str) -> str:
        """Store a file, and return the path and query of its URL."""
        name = f"{secrets.token_urlsafe(24)}.{suffix}"
        path, expires = Path(self._folder.name) / name, int(time.time()) + self._seconds
        path.write_bytes(content)
        with self._lock:
            self._files[name] = _StoredFile(path, media_type, expires, len(content))
            self._bytes += len(content)
            self._remove_old()
        return f"/files/{name}?expires={expires}&signature={self._signature(name, str(expires))}"

    def read(self, name: str, expires: str, signature: str) -> tuple[bytes, str] | None:
        """Return a file and its media type; None if the URL is wrong, has expired, or its file was removed."""
        if not hmac.compare_digest(self._signature(name, expires).encode(), signature.encode()):
            return None
        with self._lock:
            self._remove_old()
            found = self._files.get(name)
        if found is None or found.expires <= time.time():
            return None
        with contextlib.suppress(FileNotFoundError):
            return found.path.read_bytes(), found.media_type
        return None

    def close(self) -> None:
        """Remove all files."""
        self._folder.cleanup()

    def _signature(self, name: str, expires: str) -> str:
        return hmac.new(self._key, f"{name}\n{expires}".encode(), hashlib.sha256).hexdigest()

    def _remove_old(self) -> None:
        """Remove expired files, and the oldest beyond the total size and number. All have the same lifetime."""
        while self._files:
            name, oldest = next(iter(self._files.items()))
            if oldest.expires > time.time() and self._bytes <= self._most and len(self._files) <= MOST_FILES:
                return
            del self._files[name]
            self._bytes -= oldest.size
            oldest.path.unlink(missing_ok=True)
