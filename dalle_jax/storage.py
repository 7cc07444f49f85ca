"""Where runs and models lie: a folder of this machine, or one behind a ``gs://`` or ``s3://`` URL."""

import os
import tempfile
from pathlib import Path
from typing import TypeAlias

from etils import epath

Place: TypeAlias = Path | epath.Path
"""A folder or a file: ``pathlib.Path`` on this machine, ``etils.epath.Path`` (the same methods) behind a URL."""


def files(folder: Place) -> dict[str, int]:
    """Every file below a folder, by its path in it, and its bytes."""
    found = {}
    for top, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(top, name)
            found[os.path.relpath(path, folder)] = os.path.getsize(path)
    return found


def write(file: Place, content: bytes) -> None:
    """Writes a file aside and renames it into place, so that no reader meets half of it."""
    handle, aside = tempfile.mkstemp(prefix=f".{file.name[:40]}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(aside, 0o644)
        os.replace(aside, file)
    except BaseException:
        Path(aside).unlink(missing_ok=True)
        raise
