"""Checks of a checkpoint's arrays before Orbax reads them, since tensorstore ends the process for some chunk shapes.

Checksums find damage, but whoever changes a checkpoint can write them anew. Orbax stores an array in an OCDBT database,
as Zarr 3: the description of array ``x`` is the value of the key ``x/zarr.json`` (zarr-specs, "Zarr core specification
3.0"). Only what Orbax itself writes is accepted.
"""

import math
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeAlias

import tensorstore

from dalle_jax.config.errors import UserError
from dalle_jax.storage import Place
from dalle_jax.train.checkpoints.state_parts import Parts
from dalle_jax.untrusted import parse_json, read_file

DESCRIPTION = "zarr.json"
MAX_DESCRIPTION_BYTES = 100_000
TREE = "_METADATA"
CODECS = frozenset({"bytes", "zstd", "crc32c"})
"""Codecs that Orbax writes, besides that of shards."""
SHARDS = "sharding_indexed"

Json: TypeAlias = object


class _Refused(ValueError):
    """A description that Orbax does not write."""


def check_arrays(checkpoint: Place, parts: Iterable[str]) -> None:
    """Raise ``UserError`` unless each array in these parts is stored in chunks no larger than the array itself.

    Parts that the checkpoint lacks are passed over.
    """
    for part in sorted(name for name in parts if (checkpoint / name / TREE).is_file()):
        try:
            for key, content in _descriptions(checkpoint / part):
                _check(key.removesuffix(f"/{DESCRIPTION}"), content)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{checkpoint / part}: expected arrays that Orbax wrote, got others ({reason})") from error


def listed_arrays(checkpoint: Place, parts: Iterable[str]) -> int:
    """Return the number of arrays that the lists of these parts name; parts without a readable list have none."""
    found = 0
    for part in parts:
        try:
            listed = _at(parse_json(read_file(checkpoint / part / TREE)), "tree_metadata")
        except (OSError, ValueError, UserError):
            continue  # reading the part itself says why
        found += len(listed) if isinstance(listed, dict) else 0
    return found


def check_parts(stored: object, parts: Iterable[str]) -> Parts:
    """Return Orbax's metadata of a checkpoint; raise ValueError if one of ``parts`` has none of its arrays."""
    if not isinstance(stored, Mapping):
        raise _Refused("no metadata")
    for name in parts:
        if not isinstance(stored.get(name, {}), Mapping):
            raise _Refused(f"no metadata of the arrays in {name}")
    return dict(stored)


def _descriptions(part: Place) -> Iterator[tuple[str, bytes]]:
    """Yield the keys and values of all descriptions in the database of a part."""
    tree = parse_json(read_file(part / TREE))
    if not isinstance(tree, dict) or tree.get("use_ocdbt") is not True or tree.get("use_zarr3") is not True:
        raise _Refused(f"{TREE} does not say use_ocdbt and use_zarr3")
    location = os.fspath(part)
    base = location if "://" in location else f"file://{location}"
    store = tensorstore.KvStore.open({"driver": "ocdbt", "base": f"{base}/"}).result()
    keys = [key.decode(errors="replace") for key in store.list().result() if key.endswith(f"/{DESCRIPTION}".encode())]
    # What the list has read is not read again: the question whether it is still the newest fails on some stores.
    reads = [store.read(key, staleness_bound=0.0) for key in keys]
    for key, read in zip(keys, reads, strict=True):
        yield key, read.result().value


def _check(name: str, content: bytes) -> None:
    if len(content) > MAX_DESCRIPTION_BYTES:
        raise _Refused(f"a description of {len(content)} bytes for {name}")
    found = parse_json(content)
    shape = _sizes(name, _at(found, "shape"))
    chunk = _sizes(name, _at(found, "chunk_grid", "configuration", "chunk_shape"))
    if len(chunk) != len(shape) or any(piece > max(1, side) for piece, side in zip(chunk, shape, strict=True)):
        raise _Refused(f"chunks of {list(chunk)} for {name} of {list(shape)}")
    _check_codecs(name, _at(found, "codecs"), chunk)


def _check_codecs(name: str, codecs: Json, chunk: tuple[int, ...], inside: bool = False) -> None:
    if not isinstance(codecs, list) or len(codecs) > len(CODECS):
        raise _Refused(f"codecs of {name} that are not a short list")
    for codec in codecs:
        kind = _at(codec, "name")
        if kind == SHARDS and not inside:
            inner = _sizes(name, _at(codec, "configuration", "chunk_shape"))
            if len(inner) != len(chunk) or any(whole % max(1, one) for one, whole in zip(inner, chunk, strict=True)):
                raise _Refused(f"pieces of {list(inner)} in chunks of {list(chunk)} for {name}")
            _check_codecs(name, _at(codec, "configuration", "codecs"), inner, inside=True)
            _check_codecs(name, _at(codec, "configuration", "index_codecs"), inner, inside=True)
        elif kind not in CODECS:
            raise _Refused(f"the codec {str(kind)[:40]!r} for {name}")


def _at(found: Json, *names: str) -> Json:
    for name in names:
        if not isinstance(found, dict) or name not in found:
            raise _Refused(f"a description without {name}")
        found = found[name]
    return found


def _sizes(name: str, value: Json) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 32 or not all(type(one) is int and one >= 0 for one in value):
        raise _Refused(f"sizes of {name} that are not whole numbers")
    if math.prod(value) >= 2**48:
        raise _Refused(f"{name} of {value}, more than fits in any memory")
    return tuple(value)
