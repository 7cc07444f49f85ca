"""Small tars for tests, written member by member."""

import io
import tarfile
from pathlib import Path


def member(name: str, kind: bytes = tarfile.REGTYPE, **attributes) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for attribute, value in attributes.items():
        setattr(info, attribute, value)
    return info


def write(path: Path, *members: tuple[str, bytes] | tarfile.TarInfo, format: int = tarfile.USTAR_FORMAT) -> Path:
    """Write a tar of files, given as (name, content), and of other members."""
    with tarfile.open(path, "w", format=format) as tar:
        for one in members:
            info, content = (one, b"") if isinstance(one, tarfile.TarInfo) else (member(one[0]), one[1])
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def sample(key: str, caption: str | None = None, image: bytes | None = None) -> list[tuple[str, bytes]]:
    """Return the members of a sample. The default image and caption contain the key."""
    return [
        (f"{key}.jpg", f"image {key}".encode() if image is None else image),
        (f"{key}.txt", (f"caption {key}" if caption is None else caption).encode()),
    ]
