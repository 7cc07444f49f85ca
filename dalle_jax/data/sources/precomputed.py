"""Codes that ``encode`` wrote ahead, as a data source: the transformer trains from them without decoding an image."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.schema import PER_HOST
from dalle_jax.data.files.cache import local
from dalle_jax.data.files.ranges import Stored, stored
from dalle_jax.data.formats import array_files
from dalle_jax.data.formats.row_files import Rows
from dalle_jax.data.precomputed.conditions import Conditions
from dalle_jax.data.source import Example

FORMAT, VERSION = "dalle_jax codes", 1
MANIFEST = "manifest.json"
CHUNK = 2**22


@dataclass(frozen=True)
class Encoding:
    """What decides the codes in a folder: with another value of any of these they would be others.

    ``tokenizer`` and ``source`` are fingerprints, ``examples`` the images of the source; of each there are the codes
    of ``crops`` crops, made of ``image_size`` pixels a side: ``grid`` (h, w) of them, below ``codebook_size``.
    """

    tokenizer: str
    source: str
    examples: int
    crops: int
    image_size: int
    grid: tuple[int, int]
    codebook_size: int
    shard_examples: int


@dataclass(frozen=True)
class Shard:
    """One file of codes: its name, how many images' codes it holds, its bytes and their SHA-256."""

    file: str
    examples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """``manifest.json``: what a whole folder of codes holds, and the folder of the tokenizer that they are of.

    ``config`` is the resolved text of the run that made it.
    """

    encoding: Encoding
    image_tokenizer: str
    config: str
    shards: tuple[Shard, ...]

    def to_json(self) -> bytes:
        """As it is stored."""
        return (json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n").encode()


def read_manifest(folder: storage.Place) -> Manifest:
    """The manifest of a folder. UserError where there is none, or one of another kind."""
    place = folder / MANIFEST
    if not place.is_file():
        raise UserError(f"{folder}: expected codes that `encode` finished, with a {MANIFEST}; found none there")
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        if (found.pop("format"), found.pop("version")) != (FORMAT, VERSION):
            raise ValueError("another format or version")
        grid = tuple(found["encoding"].pop("grid"))
        encoding = Encoding(grid=grid, **found.pop("encoding"))
        shards = tuple(Shard(**one) for one in found.pop("shards"))
        return Manifest(encoding=encoding, shards=shards, **found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{place}: expected the manifest of {FORMAT} {VERSION}, got something else ({error})"
        ) from error


def shard_names(encoding: Encoding) -> list[str]:
    """The files of a folder, in order."""
    count = -(-encoding.examples // encoding.shard_examples)
    return [f"codes-{number:05d}-of-{count:05d}.array_record" for number in range(count)]


def encoded(key: str, codes: np.ndarray, captions: Sequence[Sequence[str]]) -> bytes:
    """A record: codes [crops h w] as little-endian numbers of 2 bytes, or 4, and each crop's captions.

    Captions that are the same for all crops are kept once.
    """
    same = all(list(one) == list(captions[0]) for one in captions)
    kept = [list(one) for one in (captions[:1] if same else captions)]
    width = 2 if codes.max(initial=0) < 2**16 else 4
    content = codes.astype(f"<u{width}").tobytes()
    return msgpack.packb({"v": VERSION, "key": key, "width": width, "codes": content, "captions": kept})


@dataclass(frozen=True)
class Codes:
    """The codes that ``encode`` wrote into ``folder``, of this machine or a URL.

    In epoch e an example shows crop e of as many as were encoded, then the first again. Shards behind a URL are copied
    once to ``copies``, a folder of this machine. ``conditions`` is a folder of ``KEY.npy`` for each record, a class or
    a text encoder's features of its caption, for a transformer that is asked by these (data/precomputed/conditions.py).
    """

    folder: str
    copies: str | None = field(default=None, metadata=PER_HOST)
    conditions: str | None = None

    def open(self) -> "CodesSource":
        """The source. Raises UserError naming every shard that is not as it was written; reads each once for that.

        That a folder has been found whole is noted in it (``.checked-…``), or in ``copies``, so that the next time only
        sizes and times are looked at.
        """
        place = storage.absolute(storage.place(self.folder))
        manifest = read_manifest(place)
        names = [f"{place}/{shard.file}" for shard in manifest.shards]
        files = [local(stored(name), self.copies, "source.copies") for name in names]
        _check(manifest, files)
        source = CodesSource(manifest, files)
        if self.conditions is not None:
            source.conditions = Conditions(storage.absolute(storage.place(self.conditions)), len(source))
        return source


class CodesSource:
    """An ``EpochSource`` of ``codes`` int32 [h w] in place of images."""

    def __init__(self, manifest: Manifest, files: Sequence[Stored]):
        self.manifest = manifest
        self.conditions: Conditions | None = None
        self._files = files
        self._rows = Rows([shard.file for shard in manifest.shards], [shard.examples for shard in manifest.shards])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        return self.example(index, 0)

    def example(self, index: int, epoch: int) -> Example:
        """Example ``index`` as an epoch shows it."""
        encoding = self.manifest.encoding
        file, row = self._rows.find(index)
        try:
            found = msgpack.unpackb(array_files.record(self._files[file], row))
        except array_files.BrokenRecord as error:
            raise UserError(f"{self._files[file].name} was damaged since it was checked: {error}") from error
        crop = epoch % encoding.crops
        codes = np.frombuffer(found["codes"], f"<u{found['width']}")
        captions = found["captions"][crop if len(found["captions"]) > 1 else 0]
        shown = codes.reshape(encoding.crops, *encoding.grid)[crop].astype(np.int32)
        example = Example(key=found["key"], codes=shown, captions=captions)
        if self.conditions is not None:
            example["condition"] = self.conditions.of(found["key"])
        return example

    def fingerprint(self) -> str:
        """A digest of what was encoded and of the shards' checksums; where they lie is no matter."""
        parts = (VERSION, self.manifest.encoding, [shard.sha256 for shard in self.manifest.shards])
        said = "" if self.conditions is None else f"-{self.conditions.fingerprint()}"
        return "codes-" + hashlib.sha256(repr(parts).encode()).hexdigest()[:16] + said


def shared_manifest(sources: Sequence[Any], evaluation: Any) -> Manifest | None:
    """The manifest of the first source, None where none holds codes.

    Raises UserError where of the sources and the evaluation data only some hold codes, or codes of another tokenizer.
    """
    found = [
        one.manifest if isinstance(one, CodesSource) else None for one in (*sources, evaluation) if one is not None
    ]
    manifests = [one for one in found if one is not None]
    if not manifests:
        return None
    if len(manifests) < len(found):
        raise UserError(
            "data: expected codes in all of source and evaluation or in none; encode those of the others too"
        )
    said = [f"{one.encoding.tokenizer} in a grid of {one.encoding.grid}" for one in manifests]
    if other := next((one for one in said if one != said[0]), None):
        raise UserError(f"data: expected codes of {said[0]} in all of source and evaluation, got those of {other} too")
    return manifests[0]


def sha256(file: str) -> str:
    """The SHA-256 of a file of this machine."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _check(manifest: Manifest, files: Sequence[Stored]) -> None:
    """Raises UserError for shards that are not as the manifest says, unless they have been found whole before."""
    looks: list[Any] = [[file.name, file.size, file.stamp] for file in files]
    unique = hashlib.sha256(manifest.to_json()).hexdigest()[:16]
    mark = Path(files[0].name).parent / f".checked-{unique}.json"
    try:
        if json.loads(mark.read_text(encoding="utf-8")) == looks:
            return
    except (OSError, ValueError):
        pass
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda file: sha256(file.name), files))
    bad = [shard.file for shard, one in zip(manifest.shards, found, strict=True) if shard.sha256 != one]
    if bad:
        raise UserError(
            f"{Path(files[0].name).parent}: {', '.join(bad)} of {len(files)} shards are not as they were written; "
            "run `encode` again, which makes such shards anew"
        )
    try:
        storage.write(mark, json.dumps(looks).encode())
    except OSError:  # a folder that cannot be written is checked each time
        return
