"""The rendered scenes as the TensorFlow data set ``dalle_jax_scenes``, which needs no download.

    from dalle_jax.data.sources import tfds_scenes
    tfds_scenes.register()
    tfds.builder("dalle_jax_scenes/64", data_dir=..., file_format="array_record").download_and_prepare()

It needs the extra ``tfds``, but not TensorFlow.
"""

import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

from dalle_jax.config.errors import UserError, install_hint
from dalle_jax.data.sources.scenes import Scenes, SplitName
from dalle_jax.images.png import encode_png
from dalle_jax.scenes.scene import LEVELS

NAME = "dalle_jax_scenes"
SIZES = (32, 64)
COUNTS = {"train": 10_000, "validation": 1_000, "held_out": 1_000}


def import_tfds() -> ModuleType:
    """Import tensorflow_datasets. Raises UserError if it is not installed."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UserError(f"expected the package tensorflow-datasets, found none; {install_hint('tfds')}") from error


@functools.cache
def register() -> type:
    """Register the data set's name with tensorflow_datasets, and return the class of its builder."""
    tfds = import_tfds()
    base_config: Any = tfds.core.BuilderConfig
    base_builder: Any = tfds.core.GeneratorBasedBuilder

    @dataclass(eq=False)
    class ScenesConfig(base_config):
        """Scenes of ``size`` pixels a side, with ``counts`` of them in each split."""

        size: int = 32
        levels: tuple[int, ...] = LEVELS
        counts: dict[str, int] = field(default_factory=lambda: dict(COUNTS))

    class DalleJaxScenes(base_builder):
        """Captioned scenes of one or two coloured shapes.

        The combinations in the split held_out do not occur in train.
        """

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [ScenesConfig(name=str(size), description=f"{size} pixels", size=size) for size in SIZES]  # noqa: RUF012
        CONFIG = ScenesConfig

        def _info(self) -> object:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "key": tfds.features.Text(),
            }
            spec = tfds.features.FeaturesDict(features)
            return tfds.core.DatasetInfo(builder=self, description=self.__doc__, features=spec)

        def _split_generators(self, dl_manager: object) -> dict[str, Iterator[tuple[str, dict[str, object]]]]:
            del dl_manager
            return {split: self._generate_examples(split) for split in self.builder_config.counts}

        def _generate_examples(self, split: SplitName) -> Iterator[tuple[str, dict[str, object]]]:
            config = self.builder_config
            count = config.counts[split]
            source = Scenes(size=config.size, levels=config.levels, count=count, seed=0, split=split).open()
            for one in (source[index] for index in range(count)):
                # encoded here, since tensorflow_datasets would import TensorFlow to encode pixels
                yield one["key"], {"image": encode_png(one["image"]), "captions": one["captions"], "key": one["key"]}

    return DalleJaxScenes
