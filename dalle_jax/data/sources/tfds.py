"""Captioned images of TensorFlow Datasets, read without TensorFlow from data in array_record format."""

import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Protocol, runtime_checkable

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import sidecars
from dalle_jax.data.formats.config_checks import check_config
from dalle_jax.data.formats.row_files import RowRecords
from dalle_jax.data.records import BadRecord, Record
from dalle_jax.data.sources import tfds_scenes

VERSION = 1
"""Increase this whenever the same data and config give different records."""


@dataclass(frozen=True)
class Tfds:
    """A split of a data set of tensorflow_datasets.

    ``name`` is a registered name, whose data are in ``data_dir``, or a folder of prepared data with a
    dataset_info.json. This package registers "dalle_jax_scenes/32". ``split`` is a split, "train", or a part of it,
    "train[:90%]".

    ``image`` is the feature of the image. ``caption`` names the features of captions, texts or lists of texts;
    "captions/text" is the feature ``text`` within ``captions``. Other numbers and texts at the top level are metadata.
    The data must be in array_record format; ``prepare`` creates them if they do not exist. An image of more than
    ``max_bytes`` is a bad record.
    """

    name: str
    split: str
    image: str = "image"
    caption: tuple[str, ...] = ("captions",)
    data_dir: str | None = None
    prepare: bool = False
    max_bytes: int = 64 * 2**20

    def open(self) -> "TfdsRecords":
        """Open the split. Raises UserError without tensorflow_datasets, and if the data cannot be read."""
        check_config("tfds", {"max_bytes": self.max_bytes}, self.caption)
        return TfdsRecords(self)


@runtime_checkable
class _Split(Protocol):
    """The part of ``tfds.core.SplitInfo`` that is used here."""

    shard_lengths: list[int]
    num_bytes: int


@runtime_checkable
class _Features(Protocol):
    """The part of ``tfds.features.FeaturesDict`` that is used here."""

    def items(self) -> Iterable[tuple[str, object]]: ...


@runtime_checkable
class _Info(Protocol):
    """The part of ``tfds.core.DatasetInfo`` that is used here."""

    full_name: str
    features: _Features
    splits: Mapping[str, _Split]


@runtime_checkable
class _Builder(Protocol):
    """The part of ``tfds.core.DatasetBuilder`` that is used here."""

    info: _Info

    def as_data_source(self, split: str, decoders: Mapping[str, object]) -> Sequence[Mapping[str, object]]: ...


class TfdsRecords(RowRecords):
    """``Records`` of a split, in its order. A key is ``NAME/CONFIG/VERSION/SPLIT:ROW``."""

    def __init__(self, config: Tfds):
        self._config = config
        tfds = tfds_scenes.import_tfds()
        tfds_scenes.register()
        builder = _builder(tfds, config)
        features = dict(builder.info.features.items())
        self._plain = _plain_features(tfds, features, config)
        images = {name for name, one in features.items() if isinstance(one, tfds.features.Image)}
        decoders = {name: tfds.decode.SkipDecoding() for name in images | {config.image}}
        try:
            self._data = builder.as_data_source(split=config.split, decoders=decoders)
        except (NotImplementedError, ValueError, KeyError) as error:
            message = " ".join(str(error).split())[:300]
            raise UserError(
                f"{config.name}: cannot read the split {config.split!r} of {', '.join(builder.info.splits)} "
                f"({message}). Convert data of other formats to array_record (tfds convert_format)"
            ) from error
        self._name = builder.info.full_name
        splits = builder.info.splits
        self._contents = [(name, splits[name].shard_lengths, splits[name].num_bytes) for name in sorted(splits)]
        super().__init__(f"{config.name}, split {config.split!r}", [f"{self._name}/{config.split}"], [len(self._data)])

    def read_row(self, key: str, file: int, row: int) -> Record:
        """Read an example of the split as a record. Raises BadRecord."""
        del file
        config = self._config
        try:
            fields = self._data[row]
        except Exception as error:  # decoders and the array_record reader may raise anything
            message = " ".join(str(error).split())[:200]
            raise BadRecord(key, "broken record", f"tensorflow_datasets cannot read it: {message}") from error
        image = sidecars.check_image(key, config.image, fields[config.image], config.max_bytes)
        texts = {path: _to_plain(key, _feature(fields, path)) for path in config.caption}
        captions = sidecars.captions_in(texts, config.caption)
        metadata = {name: _to_plain(key, fields[name]) for name in self._plain}
        return Record(key, image, sidecars.unique_captions(key, *captions), metadata)

    def fingerprint(self) -> str:
        """Return a digest of the config, of the data set's name and version, and of its shards' sizes."""
        config = self._config
        fields = (config.split, config.image, config.caption, config.max_bytes)
        text = repr((VERSION, fields, self._name, self._contents))
        return "tfds-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _builder(tfds: ModuleType, config: Tfds) -> _Builder:
    """Return the builder of a prepared data set. Raises UserError for a data set that is unknown or not prepared."""
    if "://" in config.name or "://" in (config.data_dir or ""):
        raise UserError(
            f"{config.name}: expected a data set's name or a folder of this machine, got a URL; "
            f"copy the data to this machine"
        )
    folder = os.path.isfile(os.path.join(config.name, "dataset_info.json"))
    try:
        if folder:
            builder = tfds.builder_from_directory(config.name)
        else:
            builder = tfds.builder(config.name, data_dir=config.data_dir, file_format="array_record")
            if config.prepare and not builder.is_prepared():
                builder.download_and_prepare(file_format="array_record")
    except (ImportError, ValueError, AssertionError, tfds.core.registered.DatasetNotFoundError) as error:
        message = " ".join(str(error).split())[:300]
        expected = "the name of a data set of tensorflow_datasets, or a folder with dataset_info.json"
        raise UserError(f"{config.name}: expected {expected}, readable without TensorFlow ({message})") from error
    if not builder.is_prepared():
        raise UserError(f"{config.name}: expected prepared data in {builder.data_dir}, found none; set prepare = True")
    return builder


def _plain_features(tfds: ModuleType, features: Mapping[str, object], config: Tfds) -> tuple[str, ...]:
    """Return the names of the metadata features, which are single numbers and texts.

    Raises UserError if the feature of the image or of a caption is missing.
    """
    names = list(features)
    heads = [path.partition("/")[0] for path in config.caption]
    if missing := [name for name in (config.image, *heads) if name not in names]:
        raise UserError(f"{config.name}: expected the features {', '.join(missing)}, got {', '.join(sorted(names))}")
    single = (name for name in names if _is_single(tfds, features[name]))
    return tuple(name for name in single if name not in (config.image, *heads))


def _is_single(tfds: ModuleType, feature: object) -> bool:
    """Return whether a feature is one number or text."""
    tensor = tfds.features.Tensor
    return isinstance(feature, tensor) and feature.shape == ()


def _feature(row: Mapping[str, object], path: str) -> object:
    """Return the feature at a path such as "captions/text", or None."""
    found: object = row
    for name in path.split("/"):
        found = found.get(name) if isinstance(found, Mapping) else None
    return found


def _to_plain(key: str, value: object) -> object:
    """Convert bytes to text and numpy's values to Python's. Raises BadRecord for bytes that are not UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadRecord(
                key, "caption not utf-8", f"expected texts in UTF-8, got the byte {value[error.start]:#04x}"
            ) from error
    if isinstance(value, np.ndarray | np.generic):
        return _to_plain(key, value.tolist())
    return [_to_plain(key, one) for one in value] if isinstance(value, list | tuple) else value
