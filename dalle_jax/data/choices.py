"""Unions of the data sources that a config can choose."""

from typing import TypeAlias

from dalle_jax.data.sources.array_record import ArrayRecord
from dalle_jax.data.sources.folder import Folder
from dalle_jax.data.sources.parquet import Parquet
from dalle_jax.data.sources.precomputed import ClipEmbeddings, Codes
from dalle_jax.data.sources.scenes import Scenes
from dalle_jax.data.sources.tfds import Tfds
from dalle_jax.data.sources.webdataset import WebDataset

ImageSourceConfig: TypeAlias = Scenes | WebDataset | Folder | ArrayRecord | Parquet | Tfds
"""Configs of sources of captioned images."""
SourceConfig: TypeAlias = ImageSourceConfig | Codes | ClipEmbeddings
"""Configs of all sources: captioned images, and the codes or embeddings that ``encode`` wrote."""
