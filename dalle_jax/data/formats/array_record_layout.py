"""One captioned image as bytes, as our array_record files hold it.

A msgpack map (version 1): ``v`` is 1; ``image`` the encoded image (JPEG, PNG, WebP) as it came; ``captions`` an
array of at least one text; ``about`` a map of what else is known of it, of plain values (null, true and false, numbers,
texts, arrays and maps of them). Other names are an error, so that no later version is taken for this one.
"""

from collections.abc import Mapping
from typing import Any

import msgpack

from dalle_jax.data.formats import sidecars
from dalle_jax.data.records import BadRecord, Record

VERSION = 1
_NAMES = {"v", "image", "captions", "about"}


def encoded(image: bytes, captions: tuple[str, ...] | list[str], about: Mapping[str, Any] | None = None) -> bytes:
    """The bytes of a record. Raises TypeError for an ``about`` of other than plain values."""
    content = {"v": VERSION, "image": image, "captions": list(captions), "about": dict(about or {})}
    return msgpack.packb(content, use_bin_type=True, strict_types=True)


def decoded(key: str, content: bytes, max_bytes: int) -> Record:
    """The record that ``encoded`` made bytes of. Raises BadRecord for anything else."""
    try:
        found = msgpack.unpackb(content, raw=False, strict_map_key=True, ext_hook=_no_extension)
    except Exception as error:  # msgpack raises a dozen kinds of error on bytes that are none of its
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRecord(key, "broken record", f"expected a msgpack map: {said}") from error
    version = found.get("v") if isinstance(found, dict) else None
    if not isinstance(found, dict) or version != VERSION or found.keys() != _NAMES:
        names = ", ".join(sorted(map(str, found))) if isinstance(found, dict) else type(found).__name__
        wanted = f"a map of {', '.join(sorted(_NAMES))} with v {VERSION}"
        raise BadRecord(key, "another layout", f"expected {wanted}, got {names} with v {version!r}"[:300])
    image, about = sidecars.image(key, "image", found["image"], max_bytes), found["about"]
    if not isinstance(about, dict):
        raise BadRecord(key, "another layout", f"about: expected a map, got {type(about).__name__}")
    return Record(key, image, sidecars.distinct(key, sidecars.said(found["captions"])), about)


def _no_extension(code: int, data: bytes) -> Any:
    del data
    raise ValueError(f"an extension type {code}")
