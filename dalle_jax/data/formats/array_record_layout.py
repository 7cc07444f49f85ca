"""The layout of one captioned image in our array_record files.

A record is a msgpack map of version 2:

- ``v``: the number 2.
- ``image``: the unchanged bytes of the encoded image (JPEG, PNG, WebP).
- ``captions``: an array of at least one text.
- ``metadata``: a map of plain values: null, true and false, numbers, texts, arrays and maps.

Other names are an error, so that a reader never mistakes a later version for this one. In version 1 ``metadata`` was
called ``about``.
"""

import datetime
from collections.abc import Mapping, Sequence
from typing import NoReturn

import msgpack

from dalle_jax.data.formats import sidecars
from dalle_jax.data.records import BadRecord, Metadata, Record

VERSION = 2
MAX_OTHER_BYTES = 2**20
"""Largest captions and metadata of a record together, in bytes."""
_NAMES = {"v", "image", "captions", "metadata"}


def encode_record(image: bytes, captions: Sequence[str], metadata: Metadata | None = None) -> bytes:
    """Encode a captioned image. Values of ``metadata`` that msgpack cannot hold become text."""
    content = {"v": VERSION, "image": image, "captions": list(captions), "metadata": plain(metadata or {})}
    return msgpack.packb(content, use_bin_type=True, strict_types=True)


def plain(value: object) -> object:
    """Return a value of a metadata field as the layout can hold it: dates, decimals and huge numbers become text."""
    if value is None or isinstance(value, bool | float | str | bytes):
        return value
    if isinstance(value, int):
        return value if -(2**63) <= value < 2**64 else str(value)
    if isinstance(value, Mapping):
        return {str(name): plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value.isoformat() if isinstance(value, datetime.date | datetime.time) else str(value)


def decode_record(key: str, content: bytes, max_bytes: int) -> Record:
    """Decode the bytes that ``encode_record`` made. Raises BadRecord for other bytes."""
    try:
        _check_size(content)
        found = msgpack.unpackb(content, raw=False, strict_map_key=True, ext_hook=_refuse_extension)
    except Exception as error:  # msgpack raises a dozen kinds of error for bytes that are not msgpack
        message = " ".join(str(error).split())[:200] or type(error).__name__
        raise BadRecord(key, "broken record", f"expected a msgpack map: {message}") from error
    if not isinstance(found, dict):
        raise BadRecord(key, "other layout", f"expected a msgpack map, got {type(found).__name__}")
    _check_layout(key, found)
    image = sidecars.check_image(key, "image", found["image"], max_bytes)
    metadata = found["metadata"]
    if not isinstance(metadata, dict):
        raise BadRecord(key, "other layout", f"metadata: expected a map, got {type(metadata).__name__}")
    captions = sidecars.captions_in(found, ("captions",))
    return Record(key, image, sidecars.unique_captions(key, *captions), metadata)


def _check_size(content: bytes) -> None:
    """Raise ValueError if a large record has more than ``MAX_OTHER_BYTES`` besides its image.

    A value of a byte takes up to 72 bytes in memory.
    """
    if len(content) <= MAX_OTHER_BYTES:
        return
    unpacker = msgpack.Unpacker(max_buffer_size=len(content))
    unpacker.feed(content)
    others = len(content)
    for _ in range(unpacker.read_map_header()):
        is_image = unpacker.unpack() == "image"
        start = unpacker.tell()
        unpacker.skip()
        others -= unpacker.tell() - start if is_image else 0
    if others > MAX_OTHER_BYTES:
        raise ValueError(f"{others} bytes besides the image, expected at most {MAX_OTHER_BYTES}")


def _check_layout(key: str, found: Mapping[object, object]) -> None:
    """Raise BadRecord if the map has a different layout version or different field names."""
    version = found.get("v")
    if version == 1 and "about" in found:
        raise BadRecord(
            key,
            "old layout",
            f"expected layout version {VERSION}, got version 1; write the file again from its images, because "
            "the field `about` is now `metadata`",
        )
    if version != VERSION or found.keys() != _NAMES:
        expected = f"a map of {', '.join(sorted(_NAMES))} with v {VERSION}"
        names = ", ".join(sorted(map(str, found)))
        raise BadRecord(key, "other layout", f"expected {expected}, got {names} with v {version!r}"[:300])


def _refuse_extension(code: int, data: bytes) -> NoReturn:
    """Raise ValueError for a msgpack extension type, which the layout does not have."""
    del data
    raise ValueError(f"an extension type {code}")
