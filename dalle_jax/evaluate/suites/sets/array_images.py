"""Images in a ``.npy`` or ``.npz`` file, such as the reference batches of ADM's evaluation (arXiv 2105.05233)."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from dalle_jax.arrays import UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.data.formats.npy_files import MAX_HEADER_BYTES, read_npy_header
from dalle_jax.data.records import BadRecord
from dalle_jax.evaluate.suites.image_sets import NumberedImages, middle_square
from dalle_jax.pretrained.files.read_weights import read_tensors
from dalle_jax.pretrained.files.tensors import MappedFile

ENDINGS = (".npy", ".npz")
FIRST = "arr_0"
"""The name that ``numpy.savez`` gives to its first array, which holds the images of ADM's batches."""
HASHED = 256
"""Images that are hashed at once."""


class ArrayImages:
    """The images of an array, as they are, or their middle squares resized to ``size`` pixels a side.

    They have no captions. Uncompressed arrays stay in the file and are read image by image.
    """

    def __init__(self, name: str, pixels: UInt8[np.ndarray, "N H W 3"], size: int | None = None) -> None:
        self.name, self._pixels, self._size = name, pixels, size

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, numbers: Sequence[int]) -> NumberedImages:
        """Return the images of some numbers."""
        chosen = np.asarray(numbers, np.int64)
        images = np.ascontiguousarray(self._pixels[chosen])
        if self._size is not None and images.shape[1:3] != (self._size, self._size):
            images = np.stack([middle_square(Image.fromarray(image), self._size) for image in images])
        return NumberedImages(chosen, images, ((),) * len(chosen))

    def fingerprint(self, count: int | None = None) -> str:
        """Return a hash of the first ``count`` images, or all, and the size."""
        end = len(self) if count is None else min(count, len(self))
        digest = hashlib.sha256(f"{self._pixels.shape[1:]} {self._size}".encode())
        for start in range(0, end, HASHED):
            digest.update(self._pixels[start : min(start + HASHED, end)].tobytes())
        return f"array-{digest.hexdigest()}"

    def unreadable(self) -> tuple[BadRecord, ...]:
        """Return nothing: an array is whole or refused."""
        return ()


def open_array_images(path: Path, size: int | None = None) -> ArrayImages:
    """Open the images of a file. Raise ``UserError`` unless they are uint8 [N H W 3].

    An ``.npz`` file holds them as ``arr_0``, or as its only array. Code in a file is never run.
    """
    found = _of_npy(path) if path.suffix == ".npy" else _of_npz(path)
    if found.ndim != 4 or found.shape[3] != 3 or found.dtype != np.uint8 or 0 in found.shape:
        raise _no_images(path, found.dtype, found.shape)
    return ArrayImages(str(path), found, size)


def is_statistics(path: Path) -> bool:
    """Return True for an ``.npz`` file of mean and covariance without images."""
    if path.suffix != ".npz" or not path.is_file():
        return False
    names = set(read_tensors(path).stored)
    return {"mu", "sigma"} <= names and FIRST not in names


def _of_npz(path: Path) -> np.ndarray:
    tensors = read_tensors(path)
    names = list(tensors.stored)
    name = FIRST if FIRST in names else names[0] if len(names) == 1 else None
    if name is None:
        raise UserError(f"{path}: expected images as {FIRST}, got {', '.join(names[:5]) or 'no arrays'}")
    stored = tensors.stored[name]
    if len(stored.shape) != 4 or stored.dtype != np.uint8:  # known before anything is read
        raise _no_images(path, stored.dtype, stored.shape)
    return tensors[name]


def _of_npy(path: Path) -> np.ndarray:
    file = MappedFile(path)
    try:
        header = read_npy_header(file.bytes[: MAX_HEADER_BYTES + 12])
    except ValueError as error:
        raise UserError(f"{path}: expected an array of numbers, got another file ({str(error)[:100]})") from error
    if header.start + header.nbytes != len(file):
        raise UserError(f"{path}: expected {header.start + header.nbytes:,} bytes, got {len(file):,}")
    if header.fortran:
        raise UserError(f"{path}: expected an array in C order, got one in Fortran order")
    return file.array(header.dtype, header.shape, header.start)


def _no_images(path: Path, dtype: np.dtype, shape: tuple[int, ...]) -> UserError:
    return UserError(f"{path}: expected images uint8 [N H W 3], got {dtype.name}{list(shape)}")
