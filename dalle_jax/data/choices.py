"""The sources that a config can name: the closed unions of which others choose."""

from typing import TypeAlias

from dalle_jax.data.sources.array_record import ArrayRecord
from dalle_jax.data.sources.folder import Folder
from dalle_jax.data.sources.parquet import Parquet
from dalle_jax.data.sources.precomputed import Codes
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.data.sources.tfds import Tfds
from dalle_jax.data.sources.webdataset import WebDataset

ImageSourceConfig: TypeAlias = Scenes | WebDataset | Folder | ArrayRecord | Parquet | Tfds
"""Sources of captioned images."""
SourceConfig: TypeAlias = ImageSourceConfig | Codes
"""Those, and codes that were written ahead."""
