"""The sources that a config can name: the closed unions of which others choose."""

from typing import TypeAlias

from dalle_jax.data.array_record import ArrayRecord
from dalle_jax.data.codes import Codes
from dalle_jax.data.folder import Folder
from dalle_jax.data.parquet import Parquet
from dalle_jax.data.scenes import Scenes
from dalle_jax.data.tfds import Tfds
from dalle_jax.data.webdataset import WebDataset

OfPictures: TypeAlias = Scenes | WebDataset | Folder | ArrayRecord | Parquet | Tfds
"""Sources of captioned pictures."""
OfAny: TypeAlias = OfPictures | Codes
"""Those, and codes that were written ahead."""
