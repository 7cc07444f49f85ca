"""The manifest of a folder that ``encode`` wrote: the origin of its codes or embeddings, and each shard's checksum."""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import ClassVar, TypeAlias

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files.ranges import DataFile
from dalle_jax.storage import Place
from dalle_jax.untrusted import parse_json, parse_object, read_file

VERSION = 1
MANIFEST = "manifest.json"
UNKNOWN = "unknown"
"""The platform and precision of codes from before these were stored."""
CHUNK = 2**22
"""Number of bytes that a checksum reads at once."""


@dataclass(frozen=True)
class Encoding:
    """The inputs that determine the codes in a folder. Folders with different values have different codes.

    - ``tokenizer``, ``source``: fingerprints of the image tokenizer and of the data source.
    - ``examples``: the number of images, each encoded in ``crops`` crops of ``image_size`` pixels a side.
    - ``grid``: (h, w) of the codes of one crop, which are below ``codebook_size``.
    - ``shard_examples``: the number of images in a shard; the last shard may have fewer.
    - ``platform``: "cpu", "gpu" or "tpu"; ``precision``: the dtypes of the tokenizer's products. Rounding differs
      between them, so an image between two codes may get either. They are not in ``repr``, which identifies data.
    """

    KIND: ClassVar = "codes"

    tokenizer: str
    source: str
    examples: int
    crops: int
    image_size: int
    grid: tuple[int, int]
    codebook_size: int
    shard_examples: int
    platform: str = field(default=UNKNOWN, repr=False)
    precision: str = field(default=UNKNOWN, repr=False)


@dataclass(frozen=True)
class EmbeddingEncoding:
    """The inputs that determine the embeddings in a folder.

    - ``clip``, ``text``: fingerprints of the CLIP and of its text tokenizer.
    - ``embed_width``: the width of image and text vectors. Vectors have length 1 and are stored in ``dtype``.
    - ``text_states``: whether the text tower's states, of ``text_width``, are stored too.
    - ``text_length``: the number of token ids to which the CLIP cuts a caption.

    The other fields are those of ``Encoding``.
    """

    KIND: ClassVar = "embeddings"

    clip: str
    text: str
    source: str
    examples: int
    crops: int
    image_size: int
    embed_width: int
    text_width: int
    text_length: int
    text_states: bool
    shard_examples: int
    dtype: str = "float16"


AnyEncoding: TypeAlias = Encoding | EmbeddingEncoding


@dataclass(frozen=True)
class Shard:
    """A file of codes or embeddings: its name, its number of images, its size in bytes and its SHA-256."""

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
        return _to_json(self)


@dataclass(frozen=True)
class EmbeddingManifest:
    """The content of ``manifest.json`` in a complete folder of embeddings. ``clip`` is the folder of the CLIP."""

    encoding: EmbeddingEncoding
    clip: str
    config: str
    shards: tuple[Shard, ...]

    def to_json(self) -> bytes:
        """Encode the manifest as JSON."""
        return _to_json(self)


AnyManifest: TypeAlias = Manifest | EmbeddingManifest


def _format(kind: str) -> str:
    return f"dalle_jax {kind}"


def _to_json(manifest: AnyManifest) -> bytes:
    start = {"format": _format(manifest.encoding.KIND), "version": VERSION}
    return (json.dumps(start | asdict(manifest), indent=1) + "\n").encode()


def manifest_of(encoding: AnyEncoding, network: str, config: str, shards: tuple[Shard, ...]) -> AnyManifest:
    """Return the manifest of an encoding; ``network`` is the folder of its image tokenizer or CLIP."""
    if isinstance(encoding, Encoding):
        return Manifest(encoding=encoding, image_tokenizer=network, config=config, shards=shards)
    return EmbeddingManifest(encoding=encoding, clip=network, config=config, shards=shards)


def parse_encoding(content: dict, kind: type[AnyEncoding]) -> AnyEncoding:
    """Build an encoding from parsed JSON. Raise TypeError or KeyError for other content."""
    return kind(**content | {"grid": tuple(content["grid"])}) if kind is Encoding else kind(**content)


def holds_codes(folder: Place) -> bool:
    """Return True for a folder whose manifest is one of codes."""
    place = folder / MANIFEST
    try:
        return place.is_file() and parse_object(read_file(place)).get("format") == _format(Encoding.KIND)
    except ValueError:
        return False


def read_manifest(folder: Place) -> Manifest:
    """Read the manifest of a folder of codes. Raises UserError if it is missing or of a different format."""
    found = _read(folder, Encoding)
    assert isinstance(found, Manifest)
    return found


def read_embedding_manifest(folder: Place) -> EmbeddingManifest:
    """Read the manifest of a folder of embeddings. Raises UserError if it is missing or of a different format."""
    found = _read(folder, EmbeddingEncoding)
    assert isinstance(found, EmbeddingManifest)
    return found


def _read(folder: Place, kind: type[AnyEncoding]) -> AnyManifest:
    place = folder / MANIFEST
    if not place.is_file():
        raise UserError(f"{folder}: expected {kind.KIND} from a finished `encode` run, found no {MANIFEST}")
    try:
        found = parse_object(read_file(place))
        if (found.pop("format"), found.pop("version")) != (_format(kind.KIND), VERSION):
            raise ValueError("a different format or version")
        encoding = parse_encoding(found.pop("encoding"), kind)
        shards = tuple(Shard(**one) for one in found.pop("shards"))
        network = found.pop("image_tokenizer" if kind is Encoding else "clip")
        return manifest_of(encoding, network, shards=shards, **found)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{place}: expected a manifest of {_format(kind.KIND)} {VERSION}, got other content ({error})"
        ) from error


def shard_names(encoding: AnyEncoding) -> list[str]:
    """Return the names of a folder's shards, in order."""
    count = -(-encoding.examples // encoding.shard_examples)
    return [f"{encoding.KIND}-{number:05d}-of-{count:05d}.array_record" for number in range(count)]


def sha256(file: str) -> str:
    """Return the SHA-256 of a local file."""
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def verify_shards(manifest: AnyManifest, files: Sequence[DataFile]) -> None:
    """Verify the checksums of all shards. Raises UserError that names each damaged shard.

    A verified folder gets a file ``.checked-…`` next to its shards. As long as the shards have the sizes and times in
    that file, they are not read again.
    """
    versions = [[file.name, file.size, file.stamp] for file in files]
    unique = hashlib.sha256(manifest.to_json()).hexdigest()[:16]
    mark = Path(files[0].name).parent / f".checked-{unique}.json"
    try:
        if parse_json(read_file(mark)) == versions:
            return
    except (OSError, ValueError, UserError):
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
