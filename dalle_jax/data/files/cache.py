"""Files behind URLs copied to this machine once, for readers that know only files of this machine."""

import hashlib
import os
import tempfile
from pathlib import Path

from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import Stored, read, stored

BLOCK = 32 * 2**20
"""Bytes of one request."""


def local(file: Stored, folder: str | None, where: str) -> Stored:
    """A file of this machine as it is; a copy in ``folder`` of one behind a URL, made if it is not there yet.

    The copy's name changes with the file's, its size and its stamp, so an old one is never taken for a new one.
    ``where`` is the field that names the folder, for the UserError where there is none.
    """
    if "://" not in file.name:
        return file
    if folder is None:
        raise UserError(f"{file.name}: expected a folder for copies of what lies behind URLs, got none; set {where}")
    unique = hashlib.sha256(repr((file.name, file.size, file.stamp)).encode()).hexdigest()[:16]
    target = Path(folder).absolute() / f"{unique}-{file.name.rpartition('/')[2]}"
    if not (target.is_file() and target.stat().st_size == file.size):
        _copy(file, target)
    return stored(str(target))


def _copy(file: Stored, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, aside = tempfile.mkstemp(prefix=".copy.", dir=target.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            for start in range(0, file.size, BLOCK):
                length = min(BLOCK, file.size - start)
                part = read(file, start, length)
                if len(part) != length:
                    raise UserError(f"{file.name} was changed while it was copied; start again")
                stream.write(part)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, target)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
