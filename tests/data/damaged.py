"""Tars of small images with bad records of every kind."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dalle_jax.data.records import BadRecord, Records
from tests.data.tars import member, write


def image(number: int, kind: str = "PNG", side: int = 24) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (side, side + 6, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format=kind)
    return out.getvalue()


def members(key: str, content: bytes, caption: bytes | None = None, **about: object) -> list[tuple[str, bytes]]:
    text = f"caption of {key}".encode() if caption is None else caption
    return [(f"{key}.jpg", content), (f"{key}.txt", text), (f"{key}.json", json.dumps(about).encode())]


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR\0\1\x86\xa0\0\1\x86\xa0\x08\2\0\0\0" + bytes(4)
KINDS = ("truncated", "not an image", "too many pixels", "no caption", "caption not utf-8", "broken json")
"""Faults that show when a record is read. Only the first needs its pixels decoded."""


def bad(key: str, kind: str) -> list[tuple[str, bytes]]:
    """Return the members of a sample with a fault of this kind."""
    good = image(len(key))
    return {
        "truncated": members(key, image(len(key), "JPEG", 64)[:-900]),
        "not an image": members(key, b"<html><body>404</body></html>"),
        "too many pixels": members(key, BOMB),
        "no caption": members(key, good, b" \n"),
        "caption not utf-8": members(key, good, b"caf\xe9"),
        "broken json": [*members(key, good)[:2], (f"{key}.json", b"{")],
    }[kind]


FOUND_BEFORE = ("duplicate key", "link", "path outside", "no caption", "broken tail")
"""Faults that the headers of a tar show before any record is read. A sample without a text file is one of them."""


def spoil(path: Path, first: int, again: str) -> dict[str, str]:
    """Append samples that the headers show to be bad, cut off the end of the tar, and return the key of each fault.

    The samples are numbered from ``first``. ``again`` is a key that the tar already has.
    """
    keys = dict(zip(FOUND_BEFORE[1:4], (f"{first + number:05d}" for number in range(3)), strict=True))
    with tarfile.open(path, "a") as tar:
        for info in (
            member(f"{keys['link']}.jpg", tarfile.SYMTYPE, linkname="/etc/passwd"),
            member(f"../{keys['path outside']}.jpg"),
        ):
            tar.addfile(info)
        image_only = members(keys["no caption"], image(1))[:1]
        for name, content in (*members(again, image(2)), *image_only, *members("cut off", image(3))[:1]):
            info = member(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        end = tar.offset
    path.write_bytes(path.read_bytes()[: end - 1024])
    return keys | {"path outside": f"../{keys['path outside']}", "duplicate key": again, "broken tail": path.name}


def shard(path: Path, first: int, count: int, bad_ones: dict[int, str] | None = None) -> Path:
    """Write a tar of ``count`` samples numbered from ``first``; ``bad_ones`` gives the fault of some numbers."""
    samples = []
    for number in range(first, first + count):
        key = f"{number:05d}"
        kind = (bad_ones or {}).get(number)
        samples += members(key, image(number), similarity=number / 1000) if kind is None else bad(key, kind)
    return write(path, *samples)


def fault(records: Records, index: int) -> tuple[str, str]:
    """Read a record, which must be bad; return its key and the kind of its fault."""
    with pytest.raises(BadRecord) as caught:
        records[index]
    return caught.value.key, caught.value.kind
