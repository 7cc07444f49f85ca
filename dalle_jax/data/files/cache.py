"""The download cache: files behind URLs, downloaded once for readers that need a local file."""

import hashlib
import os
import tempfile
from pathlib import Path

from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import DataFile, find_file, read_range

BLOCK = 32 * 2**20
"""Number of bytes that one request downloads."""


def local_file(file: DataFile, folder: str | None, field: str) -> DataFile:
    """Return a local file unchanged, or the downloaded copy of a file behind a URL in the cache ``folder``.

    A copy's name depends on the file's name, size and stamp, so that a changed file is downloaded again. ``field`` is
    the config field of the folder. Raises UserError if a file is behind a URL and ``folder`` is None.
    """
    if "://" not in file.name:
        return file
    if folder is None:
        raise UserError(
            f"{file.name}: expected a folder for downloads, because this file is behind a URL; "
            f"set {field} to a local folder"
        )
    unique = hashlib.sha256(repr((file.name, file.size, file.stamp)).encode()).hexdigest()[:16]
    target = Path(folder).absolute() / f"{unique}-{file.name.rpartition('/')[2]}"
    if not (target.is_file() and target.stat().st_size == file.size):
        _download(file, target)
    return find_file(str(target))


def _download(file: DataFile, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=".download.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            for start in range(0, file.size, BLOCK):
                length = min(BLOCK, file.size - start)
                content = read_range(file, start, length)
                if len(content) != length:
                    raise UserError(f"{file.name} was changed while it was downloaded; start again")
                stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
