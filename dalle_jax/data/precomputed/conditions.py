"""Conditions written ahead beside codes: ``KEY.npy`` for each record, a class or a text encoder's features."""

import hashlib
from pathlib import PurePosixPath

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.storage import Place

SUFFIX = ".npy"


def read_npy(path: Place) -> np.ndarray:
    """The array in a ``.npy`` file; UserError for what holds none, or objects, which are never loaded."""
    try:
        with path.open("rb") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{path}: expected numbers in a .npy file, got something else ({error})") from error


class Conditions:
    """A folder, here or at a URL, of ``KEY.npy``: a whole number, the class, or features [t c] (also [1 t c])."""

    def __init__(self, folder: Place, records: int):
        """UserError where there are fewer files than ``records``."""
        self._folder = folder
        self._sizes = {name: size for name, size in storage.files(folder).items() if name.endswith(SUFFIX)}
        if len(self._sizes) < records:
            raise UserError(
                f"{folder}: expected a file KEY{SUFFIX} for each of the {records} records whose codes these go with, "
                f"found {len(self._sizes)}"
            )

    def of(self, key: str) -> np.ndarray:
        """The condition of a record; UserError where there is none, or something else."""
        name = f"{key}{SUFFIX}"
        if name not in self._sizes or ".." in PurePosixPath(name).parts:
            raise UserError(f"{self._folder}: expected {name}, the condition of the record {key}, found none")
        found = read_npy(self._folder / name)
        return found[0] if found.ndim == 3 and len(found) == 1 else found

    def fingerprint(self) -> str:
        """A digest of the files' names and sizes; what is in them is not read for it."""
        return hashlib.sha256(repr(sorted(self._sizes.items())).encode()).hexdigest()[:16]
