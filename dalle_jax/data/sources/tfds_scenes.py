"""The drawn scenes as a data set of TensorFlow Datasets, ``dalle_jax_scenes``: drawn here, nothing is fetched.

    from dalle_jax.data import tfds_scenes
    tfds_scenes.register()
    tfds.builder("dalle_jax_scenes/64", data_dir=..., file_format="array_record").download_and_prepare()

Needs the extra ``tfds`` and no TensorFlow.
"""

import functools
import importlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from dalle_jax.config.errors import UserError
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.images.png import encode_png
from dalle_jax.scenes.scene import LEVELS

NAME = "dalle_jax_scenes"
SIZES = (32, 64)
COUNTS = {"train": 10_000, "validation": 1_000, "held_out": 1_000}


def package() -> Any:
    """tensorflow_datasets. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UserError(
            "TensorFlow Datasets need the package tensorflow-datasets; install it with: pip install 'dalle-jax[tfds]'"
        ) from error


@functools.cache
def register() -> Any:
    """Makes the data set known to tensorflow_datasets by its name, and returns its builder's class."""
    tfds = package()
    base_config: Any = tfds.core.BuilderConfig
    base_builder: Any = tfds.core.GeneratorBasedBuilder

    @dataclass(eq=False)
    class ScenesConfig(base_config):
        """Captioned scenes of ``size`` pixels a side, ``counts`` in each split."""

        size: int = 32
        levels: tuple[int, ...] = LEVELS
        counts: dict[str, int] = field(default_factory=lambda: dict(COUNTS))

    class DalleJaxScenes(base_builder):
        """Captioned scenes of one or two coloured shapes; those of held_out show combinations that train never does."""

        VERSION = tfds.core.Version("1.0.0")
        BUILDER_CONFIGS = [ScenesConfig(name=str(size), description=f"{size} pixels", size=size) for size in SIZES]  # noqa: RUF012
        CONFIG = ScenesConfig

        def _info(self) -> Any:
            features = {
                "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                "captions": tfds.features.Sequence(tfds.features.Text()),
                "key": tfds.features.Text(),
            }
            about = self.__doc__
            return tfds.core.DatasetInfo(builder=self, description=about, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            del dl_manager
            return {split: self._generate_examples(split) for split in self.builder_config.counts}

        def _generate_examples(self, split: Any) -> Iterator[tuple[str, dict[str, Any]]]:
            config = self.builder_config
            count = config.counts[split]
            source = Scenes(size=config.size, levels=config.levels, count=count, seed=0, split=split).open()
            for one in (source[index] for index in range(count)):
                # encoded here: tensorflow_datasets would import TensorFlow to encode pixels
                yield one["key"], {"image": encode_png(one["image"]), "captions": one["captions"], "key": one["key"]}

    return DalleJaxScenes
