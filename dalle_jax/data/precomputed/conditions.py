"""Precomputed conditions of codes: ``KEY.npy`` for each record, a class or a text encoder's features."""

import hashlib
from pathlib import PurePosixPath

import numpy as np

from dalle_jax import storage
from dalle_jax.config.errors import UserError
from dalle_jax.data.formats.npy_files import read_npy_array
from dalle_jax.storage import Place
from dalle_jax.untrusted import read_file

SUFFIX = ".npy"
MAX_ARRAY_BYTES = 2**28
"""Largest array of conditions. Features of a long caption have some MB."""


def read_npy(path: Place) -> np.ndarray:
    """Read an array from a ``.npy`` file. Raises UserError for other content, and for pickled objects."""
    try:
        return read_npy_array(read_file(path, MAX_ARRAY_BYTES))
    except ValueError as error:
        raise UserError(f"{path}: expected numbers in a .npy file, got other content ({error})") from error


class Conditions:
    """A folder, on this machine or behind a URL, with a file ``KEY.npy`` for each record.

    A file holds a class number, or caption features [t c] or [1 t c].
    """

    def __init__(self, folder: Place, records: int):
        """List the folder. Raises UserError if it has fewer files than there are ``records``."""
        self._folder = folder
        self._sizes = {name: size for name, size in storage.files(folder).items() if name.endswith(SUFFIX)}
        if len(self._sizes) < records:
            raise UserError(
                f"{folder}: expected a file KEY{SUFFIX} for each of the {records} records of codes, "
                f"found {len(self._sizes)}"
            )

    def of(self, key: str) -> np.ndarray:
        """Read the condition of a record. Raises UserError if it is missing or not an array of numbers."""
        name = f"{key}{SUFFIX}"
        if name not in self._sizes or ".." in PurePosixPath(name).parts:
            raise UserError(f"{self._folder}: expected {name}, the condition of record {key}, found no such file")
        found = read_npy(self._folder / name)
        return found[0] if found.ndim == 3 and len(found) == 1 else found

    def fingerprint(self) -> str:
        """Return a digest of the files' names and sizes, but not of their contents."""
        return hashlib.sha256(repr(sorted(self._sizes.items())).encode()).hexdigest()[:16]
