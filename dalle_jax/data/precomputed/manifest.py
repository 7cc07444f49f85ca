"""The manifest of a folder of precomputed codes: their origin, and the checksum of each shard."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import DataFile
from dalle_jax.storage import Place

FORMAT, VERSION = "dalle_jax codes", 1
MANIFEST = "manifest.json"
CHUNK = 2**22
"""Number of bytes that a checksum reads at once."""


@dataclass(frozen=True)
class Encoding:
    """The inputs that determine the codes in a folder. Folders with different values have different codes.

    - ``tokenizer``, ``source``: fingerprints of the image tokenizer and of the data source.
    - ``examples``: the number of images, each encoded in ``crops`` crops of ``image_size`` pixels a side.
    - ``grid``: (h, w) of the codes of one crop, which are below ``codebook_size``.
    - ``shard_examples``: the number of images in a shard; the last shard may have fewer.
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
    """A file of codes: its name, its number of images, its size in bytes and its SHA-256."""

    file: str
    examples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.json`` in a complete folder of codes.

    ``image_tokenizer`` is the folder of the tokenizer, and ``config`` the resolved config of the ``encode`` run.
    """

    encoding: Encoding
    image_tokenizer: str
    config: str
    shards: tuple[Shard, ...]

    def to_json(self) -> bytes:
        """Encode the manifest as JSON."""
        return (json.dumps({"format": FORMAT, "version": VERSION, **asdict(self)}, indent=1) + "\n").encode()


def read_manifest(folder: Place) -> Manifest:
    """Read the manifest of a folder. Raises UserError if it is missing or of a different format."""
    place = folder / MANIFEST
    if not place.is_file():
        raise UserError(f"{folder}: expected codes from a finished `encode` run, found no {MANIFEST}")
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        if (found.pop("format"), found.pop("version")) != (FORMAT, VERSION):
            raise ValueError("a different format or version")
        grid = tuple(found["encoding"].pop("grid"))
        encoding = Encoding(grid=grid, **found.pop("encoding"))
        shards = tuple(Shard(**one) for one in found.pop("shards"))
        return Manifest(encoding=encoding, shards=shards, **found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{place}: expected a manifest of {FORMAT} {VERSION}, got other content ({error})") from error


def shard_names(encoding: Encoding) -> list[str]:
    """Return the names of a folder's shards, in order."""
    count = -(-encoding.examples // encoding.shard_examples)
    return [f"codes-{number:05d}-of-{count:05d}.array_record" for number in range(count)]


def sha256(file: str) -> str:
    """Return the SHA-256 of a local file."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify_shards(manifest: Manifest, files: Sequence[DataFile]) -> None:
    """Verify the checksums of all shards. Raises UserError that names each damaged shard.

    A verified folder gets a file ``.checked-…`` next to its shards. As long as the shards have the sizes and times in
    that file, they are not read again.
    """
    versions = [[file.name, file.size, file.stamp] for file in files]
    unique = hashlib.sha256(manifest.to_json()).hexdigest()[:16]
    mark = Path(files[0].name).parent / f".checked-{unique}.json"
    try:
        if json.loads(mark.read_text(encoding="utf-8")) == versions:
            return
    except (OSError, ValueError):
        pass
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda file: sha256(file.name), files))
    damaged = [shard.file for shard, one in zip(manifest.shards, found, strict=True) if shard.sha256 != one]
    if damaged:
        raise UserError(
            f"{Path(files[0].name).parent}: {', '.join(damaged)} of {len(files)} shards are damaged; "
            "run `encode` again, which writes these shards anew"
        )
    try:
        storage.write(mark, json.dumps(versions).encode())
    except OSError:  # a folder that cannot be written is verified each time
        return
