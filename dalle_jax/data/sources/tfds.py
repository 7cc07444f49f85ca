"""Captioned images of TensorFlow Datasets, read without TensorFlow from data that lie as array_record."""

import hashlib
import os
from dataclasses import dataclass
from typing import Any

import numpy as np

from dalle_jax.config.errors import UserError
from dalle_jax.data.formats import sidecars
from dalle_jax.data.records import BadRecord, Record
from dalle_jax.data.sources import tfds_scenes

VERSION = 1
"""Goes up whenever the same data and configuration would give other records."""


@dataclass(frozen=True)
class Tfds:
    """A split of a data set that is registered with tensorflow_datasets, or of one in a builder's folder.

    ``name`` is a name ("dalle_jax_scenes/32", which ships with this package), looked for in ``data_dir``; or the folder
    that holds the prepared data with its dataset_info.json. ``split`` is "train", or a part of it ("train[:90%]").
    ``image`` is the feature that holds the image, ``caption`` those that hold captions, texts or lists of texts,
    "captions/text" being one within another; numbers and texts at the top are what else is said of it. The data must
    have been prepared in array_record format; ``prepare`` does that where it has not been done.
    """

    name: str
    split: str
    image: str = "image"
    caption: tuple[str, ...] = ("captions",)
    data_dir: str | None = None
    prepare: bool = False
    max_bytes: int = 64 * 2**20

    def open(self) -> "TfdsRecords":
        """The records. Raises UserError without the package, for a data set that is not there or cannot be read."""
        if self.max_bytes < 1 or not self.caption:
            raise UserError(
                "tfds: expected max_bytes of at least 1 and a feature in caption, "
                f"got {self.max_bytes} and {self.caption}"
            )
        return TfdsRecords(self)


class TfdsRecords:
    """``Records`` of a split, in its order; a key is the data set, the split and the number in it."""

    def __init__(self, config: Tfds):
        self._config = config
        tfds = tfds_scenes.package()
        tfds_scenes.register()
        builder = _builder(tfds, config)
        features = builder.info.features
        self._single = _checked(tfds, features, config)
        images = {name for name, one in features.items() if isinstance(one, tfds.features.Image)}
        decoders = {name: tfds.decode.SkipDecoding() for name in images | {config.image}}
        try:
            self._rows = builder.as_data_source(split=config.split, decoders=decoders)
        except (NotImplementedError, ValueError, KeyError) as error:
            said = " ".join(str(error).split())[:300]
            raise UserError(
                f"{config.name}: cannot read the split {config.split!r} of {', '.join(builder.info.splits)}: {said}. "
                "The data must lie as array_record (tfds convert_format, or prepare them anew in that format)"
            ) from error
        self._name = builder.info.full_name
        splits = builder.info.splits
        self._contents = [(name, splits[name].shard_lengths, splits[name].num_bytes) for name in sorted(splits)]
        if not len(self._rows):
            raise UserError(f"{config.name}: expected records in the split {config.split!r}, got none")

    @property
    def problems(self) -> tuple[BadRecord, ...]:
        """None: what is bad is found when it is read."""
        return ()

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Record:
        if not 0 <= index < len(self):
            raise IndexError(index)
        config, key = self._config, self.key(index)
        try:
            row = dict(self._rows[index])
        except Exception as error:  # whatever a decoder or the array_record reader raises
            said = " ".join(str(error).split())[:200]
            raise BadRecord(key, "broken record", f"tensorflow_datasets cannot read it: {said}") from error
        image = sidecars.image(key, config.image, row.pop(config.image), config.max_bytes)
        captions = [one for path in config.caption for one in sidecars.said(_plain(key, _within(row, path)))]
        about = {name: _plain(key, row[name]) for name in self._single}
        return Record(key, image, sidecars.distinct(key, captions), about)

    def key(self, index: int) -> str:
        """The key of record ``index``, without reading it."""
        return f"{self._name}/{self._config.split}:{index}"

    def fingerprint(self) -> str:
        """A digest of the configuration, of the data set's name and version, and of the sizes of its shards."""
        config = self._config
        fields = (config.split, config.image, config.caption, config.max_bytes)
        text = repr((VERSION, fields, self._name, self._contents))
        return "tfds-" + hashlib.sha256(text.encode()).hexdigest()[:16]


def _builder(tfds: Any, config: Tfds) -> Any:
    """The builder of a data set that has been prepared."""
    if "://" in config.name or "://" in (config.data_dir or ""):
        raise UserError(f"{config.name}: expected a name or a folder of this machine; copy what lies behind a URL")
    folder = os.path.isfile(os.path.join(config.name, "dataset_info.json"))
    try:
        if folder:
            builder = tfds.builder_from_directory(config.name)
        else:
            builder = tfds.builder(config.name, data_dir=config.data_dir, file_format="array_record")
            if config.prepare and not builder.is_prepared():
                builder.download_and_prepare(file_format="array_record")
    except (ImportError, ValueError, AssertionError, tfds.core.registered.DatasetNotFoundError) as error:
        said = " ".join(str(error).split())[:300]
        wanted = "the name of a data set of tensorflow_datasets, or a folder with dataset_info.json"
        raise UserError(f"{config.name}: expected {wanted}, which can be read without TensorFlow ({said})") from error
    if not builder.is_prepared():
        raise UserError(f"{config.name}: its data are not in {builder.data_dir}; set prepare = True to make them")
    return builder


def _checked(tfds: Any, features: Any, config: Tfds) -> tuple[str, ...]:
    """The features that hold one number or text. UserError where image or captions are not among the features."""
    names = list(features)
    heads = [path.partition("/")[0] for path in config.caption]
    if missing := [name for name in (config.image, *heads) if name not in names]:
        raise UserError(f"{config.name}: expected the features {', '.join(missing)}, got {', '.join(sorted(names))}")
    single = (name for name in names if isinstance(features[name], tfds.features.Tensor) and features[name].shape == ())
    return tuple(name for name in single if name not in (config.image, *heads))


def _within(row: dict[str, Any], path: str) -> Any:
    found: Any = row
    for name in path.split("/"):
        found = found.get(name) if isinstance(found, dict) else None
    return found


def _plain(key: str, value: Any) -> Any:
    """Texts for bytes, Python's numbers and lists for numpy's. BadRecord for bytes that are no UTF-8."""
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise BadRecord(key, "caption not utf-8", f"a text has the byte {value[error.start]:#04x}") from error
    if isinstance(value, np.ndarray | np.generic):
        return _plain(key, value.tolist())
    return [_plain(key, one) for one in value] if isinstance(value, list | tuple) else value
