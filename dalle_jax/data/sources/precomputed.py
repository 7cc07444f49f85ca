"""Precomputed codes or CLIP embeddings as a data source, so that a model trains without decoding images."""

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.schema import PER_HOST
from dalle_jax.data.files.cache import local_file
from dalle_jax.data.files.ranges import DataFile, find_file
from dalle_jax.data.formats import array_files
from dalle_jax.data.formats.row_files import Rows
from dalle_jax.data.precomputed.code_record import decode_codes
from dalle_jax.data.precomputed.conditions import Conditions
from dalle_jax.data.precomputed.embedding_record import decode_embeddings
from dalle_jax.data.precomputed.manifest import (
    UNKNOWN,
    VERSION,
    AnyManifest,
    EmbeddingManifest,
    Manifest,
    read_embedding_manifest,
    read_manifest,
    verify_shards,
)
from dalle_jax.data.source import Example, Source
from dalle_jax.storage import Place

AManifest = TypeVar("AManifest", Manifest, EmbeddingManifest)


@dataclass(frozen=True)
class Codes:
    """The codes in ``folder``, a folder of this machine or a URL that ``encode`` wrote.

    Epoch e uses the codes of crop e of each image; after the last crop, the first is used again. Shards behind a URL
    are downloaded once into ``cache``, a folder of this machine. ``conditions`` is a folder with a file ``KEY.npy`` for
    each record: a class, or a text encoder's features of its caption (data/precomputed/conditions.py).
    """

    folder: str
    cache: str | None = field(default=None, metadata=PER_HOST)
    conditions: str | None = None

    def open(self) -> "CodesSource":
        """Open the folder and verify its shards. Raises UserError that names each damaged shard.

        Only the first opening reads all shards; later ones compare sizes and times.
        """
        place = storage.absolute(storage.place(self.folder))
        manifest = read_manifest(place)
        source = CodesSource(manifest, verified_files(place, manifest, self.cache))
        if self.conditions is not None:
            source.conditions = Conditions(storage.absolute(storage.place(self.conditions)), len(source))
        return source


@dataclass(frozen=True)
class ClipEmbeddings:
    """The CLIP embeddings in ``folder``, a folder of this machine or a URL that ``encode`` with a ``clip`` wrote.

    Epoch e shows crop e of each image, and starts over after the last crop. Shards behind a URL are downloaded once
    into ``cache``, a folder of this machine.
    """

    folder: str
    cache: str | None = field(default=None, metadata=PER_HOST)

    def open(self) -> "EmbeddingsSource":
        """Open the folder and verify its shards, as ``Codes.open`` does."""
        place = storage.absolute(storage.place(self.folder))
        manifest = read_embedding_manifest(place)
        return EmbeddingsSource(manifest, verified_files(place, manifest, self.cache))


def verified_files(place: Place, manifest: AnyManifest, cache: str | None) -> list[DataFile]:
    """Find or download the shards of a folder and verify them. Raises UserError that names each damaged shard."""
    names = [f"{place}/{shard.file}" for shard in manifest.shards]
    files = [local_file(find_file(name), cache, "source.cache") for name in names]
    verify_shards(manifest, files)
    return files


class Shards(Generic[AManifest]):
    """The records of verified shards, by number."""

    def __init__(self, manifest: AManifest, files: Sequence[DataFile]):
        self.manifest: AManifest = manifest
        self._files = files
        self._rows = Rows([shard.examples for shard in manifest.shards])

    def __len__(self) -> int:
        return len(self._rows)

    def read(self, index: int) -> bytes:
        """Read a record. Raises UserError if its shard was damaged since."""
        file, row = self._rows.find(index)
        try:
            return array_files.read_record(self._files[file], row)
        except array_files.BrokenRecord as error:
            raise UserError(f"{self._files[file].name} was damaged after it was verified: {error}") from error

    def fingerprint(self) -> str:
        """Return a digest of the encoding and the shards' checksums, but not of their place."""
        content = (VERSION, self.manifest.encoding, [shard.sha256 for shard in self.manifest.shards])
        return f"{self.manifest.encoding.KIND}-" + hashlib.sha256(repr(content).encode()).hexdigest()[:16]


class CodesSource(Shards[Manifest]):
    """An ``EpochSource`` whose examples have ``codes`` int32 [h w] instead of an image."""

    conditions: Conditions | None = None

    def __getitem__(self, index: int) -> Example:
        return self.example(index, 0)

    def example(self, index: int, epoch: int) -> Example:
        """Read the codes of image ``index``, in the crop that belongs to ``epoch``."""
        encoding = self.manifest.encoding
        record = decode_codes(self.read(index), epoch % encoding.crops, encoding.crops, encoding.grid)
        example = Example(key=record.key, codes=record.codes, captions=record.captions)
        if self.conditions is not None:
            example["condition"] = self.conditions.of(record.key)
        return example

    def fingerprint(self) -> str:
        """Return a hash that changes with the encoding's settings, the shards' checksums and the conditions.

        It does not depend on the folders, so that moved data count as the same.
        """
        conditions = "" if self.conditions is None else f"-{self.conditions.fingerprint()}"
        return super().fingerprint() + conditions


class EmbeddingsSource(Shards[EmbeddingManifest]):
    """An ``EpochSource`` whose examples have CLIP vectors of the image and of each caption instead of an image."""

    def __getitem__(self, index: int) -> Example:
        return self.example(index, 0)

    def example(self, index: int, epoch: int) -> Example:
        """Read the embeddings of image ``index``, in the crop of an epoch."""
        encoding = self.manifest.encoding
        crop = epoch % encoding.crops
        record = decode_embeddings(self.read(index), crop, encoding.crops, encoding.text_width)
        return Example(key=record.key, image_vector=record.image, texts=record.texts, captions=record.captions)


def shared_manifest(sources: Sequence[Source], evaluation: Source | None) -> AnyManifest | None:
    """Return the manifest of the first source, or None if no source holds codes or embeddings.

    Raises UserError if only some of the sources and the evaluation data hold them, or if their networks differ. Prints
    a warning if codes were computed on different platforms or in different precisions.
    """
    found = [
        one.manifest if isinstance(one, CodesSource | EmbeddingsSource) else None
        for one in (*sources, evaluation)
        if one is not None
    ]
    manifests = [one for one in found if one is not None]
    if not manifests:
        return None
    kind = manifests[0].encoding.KIND
    if len(manifests) < len(found):
        raise UserError(
            f"data: expected {kind} in both source and evaluation, or images in both, got {kind} in one; "
            "run `encode` for the other"
        )
    texts = [_origin(one) for one in manifests]
    if other := next((one for one in texts if one != texts[0]), None):
        raise UserError(f"data: expected {texts[0]} in both source and evaluation, got {other} too")
    settings = sorted({text for one in manifests if (text := _settings(one)) is not None})
    if len(settings) > 1:
        print(
            "dalle-jax: WARNING: data: expected codes that were all computed in one way, got "
            f"{' and '.join(settings)}; the same image may have other codes there. Run `encode` for all data on one "
            "platform",
            file=sys.stderr, flush=True,
        )  # fmt: skip
    return manifests[0]


def _settings(manifest: AnyManifest) -> str | None:
    """Return the platform and precision of codes, or None if they are unknown."""
    if not isinstance(manifest, Manifest) or manifest.encoding.platform == UNKNOWN:
        return None
    return f"codes of a {manifest.encoding.platform} in {manifest.encoding.precision}"


def _origin(manifest: AnyManifest) -> str:
    """Describe the network that made the codes or embeddings."""
    if isinstance(manifest, Manifest):
        return f"codes of {manifest.encoding.tokenizer} in a grid of {manifest.encoding.grid}"
    states = "with" if manifest.encoding.text_states else "without"
    return f"embeddings of {manifest.encoding.clip} and {manifest.encoding.text}, {states} text states"
