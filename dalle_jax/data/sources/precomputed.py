"""Precomputed codes of images as a data source, so that a transformer trains without decoding images."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.config.schema import PER_HOST
from dalle_jax.data.files.cache import local_file
from dalle_jax.data.files.ranges import DataFile, find_file
from dalle_jax.data.formats import array_files
from dalle_jax.data.formats.row_files import Rows
from dalle_jax.data.precomputed.code_record import decode_codes
from dalle_jax.data.precomputed.conditions import Conditions
from dalle_jax.data.precomputed.manifest import VERSION, Manifest, read_manifest, verify_shards
from dalle_jax.data.source import Example, Source


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
        names = [f"{place}/{shard.file}" for shard in manifest.shards]
        files = [local_file(find_file(name), self.cache, "source.cache") for name in names]
        verify_shards(manifest, files)
        source = CodesSource(manifest, files)
        if self.conditions is not None:
            source.conditions = Conditions(storage.absolute(storage.place(self.conditions)), len(source))
        return source


class CodesSource:
    """An ``EpochSource`` whose examples have ``codes`` int32 [h w] instead of an image."""

    def __init__(self, manifest: Manifest, files: Sequence[DataFile]):
        self.manifest = manifest
        self.conditions: Conditions | None = None
        self._files = files
        self._rows = Rows([shard.examples for shard in manifest.shards])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Example:
        return self.example(index, 0)

    def example(self, index: int, epoch: int) -> Example:
        """Read the codes of image ``index``, in the crop that belongs to ``epoch``."""
        encoding = self.manifest.encoding
        file, row = self._rows.find(index)
        try:
            content = array_files.read_record(self._files[file], row)
        except array_files.BrokenRecord as error:
            raise UserError(
                f"{self._files[file].name} was damaged after it was verified; run `encode` again: {error}"
            ) from error
        record = decode_codes(content, epoch % encoding.crops, encoding.crops, encoding.grid)
        example = Example(key=record.key, codes=record.codes, captions=record.captions)
        if self.conditions is not None:
            example["condition"] = self.conditions.of(record.key)
        return example

    def fingerprint(self) -> str:
        """Return a hash that changes with the encoding's settings, the shards' checksums and the conditions.

        It does not depend on the folders, so that moved data count as the same.
        """
        content = (VERSION, self.manifest.encoding, [shard.sha256 for shard in self.manifest.shards])
        conditions = "" if self.conditions is None else f"-{self.conditions.fingerprint()}"
        return "codes-" + hashlib.sha256(repr(content).encode()).hexdigest()[:16] + conditions


def shared_manifest(sources: Sequence[Source], evaluation: Source | None) -> Manifest | None:
    """Return the manifest of the first source, or None if no source holds codes.

    Raises UserError if only some of the sources and the evaluation data hold codes, or if their tokenizers differ.
    """
    found = [
        one.manifest if isinstance(one, CodesSource) else None for one in (*sources, evaluation) if one is not None
    ]
    manifests = [one for one in found if one is not None]
    if not manifests:
        return None
    if len(manifests) < len(found):
        raise UserError(
            "data: expected codes in both source and evaluation, or images in both, got codes in one; "
            "run `encode` for the other"
        )
    texts = [f"{one.encoding.tokenizer} in a grid of {one.encoding.grid}" for one in manifests]
    if other := next((one for one in texts if one != texts[0]), None):
        raise UserError(f"data: expected codes of {texts[0]} in both source and evaluation, got codes of {other} too")
    return manifests[0]
