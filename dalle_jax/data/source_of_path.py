"""The data source of a path, as a command line names it: a folder of images, or files of records."""

from collections import Counter
from collections.abc import Callable

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.files.patterns import expand_paths
from dalle_jax.data.formats.folder_listing import list_folder
from dalle_jax.data.formats.sidecars import IMAGES
from dalle_jax.data.sources.array_record import ArrayRecord
from dalle_jax.data.sources.folder import Folder
from dalle_jax.data.sources.parquet import Parquet
from dalle_jax.data.sources.webdataset import WebDataset

CONTAINERS: dict[str, type[WebDataset | Parquet | ArrayRecord]] = {
    ".tar": WebDataset,
    ".parquet": Parquet,
    ".array_record": ArrayRecord,
    ".arrayrecord": ArrayRecord,
}
"""Sources of files of records, by the files' ending."""


def source_of_path(path: str, say: Callable[[str], None]) -> Folder | WebDataset | Parquet | ArrayRecord:
    """Return the source for a path: the files of records that it matches or has below it, or else the folder itself.

    Training lists a folder by the same rules. ``say`` takes a line about images outside of these files. Raises
    UserError for files of records of several kinds.
    """
    is_folder = storage.place(path).is_dir()
    names = list_folder(storage.place(path))[0] if is_folder else expand_paths((path,), tuple(CONTAINERS))
    counts = Counter(one.rpartition(".")[2].lower() for one in names)
    found = {ending: counts[ending.removeprefix(".")] for ending in CONTAINERS if counts[ending.removeprefix(".")]}
    if len(found) > 1:
        got = " and ".join(f"{count} {ending}" for ending, count in found.items())
        raise UserError(f"{path}: expected files of records of one kind, got {got}; name one kind (*.tar)")
    if not found:
        return Folder(path=path)
    ((ending, count),) = found.items()
    if images := sum(counts[one] for one in IMAGES):
        say(f"{path}: {images} images outside of the {count} {ending} files are not read; name them as a @Folder")
    return CONTAINERS[ending](files=(path,))
