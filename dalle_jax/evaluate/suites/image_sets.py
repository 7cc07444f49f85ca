"""Sets of images that ``evaluate`` reads as a stream: records of files, or codes that a tokenizer decodes."""

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from PIL import Image

from dalle_jax.arrays import Int, UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.data.records import BadRecord, Records
from dalle_jax.data.source import Source
from dalle_jax.images.crops import centre_box, crop_image
from dalle_jax.images.decode import decode_image
from dalle_jax.images.header import BadImage, Limits, read_header, refuse_sparse
from dalle_jax.parallel import hosts

BAD_SHARE = 0.1
"""The largest share of a set's images that may be unreadable."""


@dataclass(frozen=True)
class NumberedImages:
    """Images of one size, their numbers in the set, and the captions of each."""

    numbers: Int[np.ndarray, " B"]
    images: UInt8[np.ndarray, "B H W 3"]
    captions: tuple[tuple[str, ...], ...]


@runtime_checkable
class ImageSet(Protocol):
    """A finite set of images with random access. An image that cannot be read is left out and counted."""

    @property
    def name(self) -> str:
        """The set's name in messages, such as its path."""
        ...

    def __len__(self) -> int:
        """Return the number of images that were listed."""
        ...

    def read(self, numbers: Sequence[int]) -> NumberedImages:
        """Read images by number. Raise ``UserError`` if their sizes differ."""
        ...

    def fingerprint(self, count: int | None = None) -> str:
        """Return a hash that changes with the first ``count`` images, or all, or with their preparation."""
        ...

    def unreadable(self) -> tuple[BadRecord, ...]:
        """Return the images that could not be read so far."""
        ...


class RecordImages:
    """The images of records, as they are, or their middle squares resized to ``size`` pixels a side.

    Transparent parts become white. Captions are those of the records.
    """

    def __init__(self, name: str, records: Records, size: int | None = None) -> None:
        self.name, self._records, self._size = name, records, size
        self._limits = Limits()
        self._bad: dict[int, BadRecord] = {-1 - number: one for number, one in enumerate(records.problems)}
        self._threads = ThreadPoolExecutor(min(8, os.cpu_count() or 1))

    def __len__(self) -> int:
        return len(self._records)

    def read(self, numbers: Sequence[int]) -> NumberedImages:
        """Read images with threads, since Pillow releases Python's lock while it decodes."""
        found = [one for one in self._threads.map(self._one, numbers) if one is not None]
        if not found:
            return NumberedImages(np.zeros(0, np.int64), np.zeros((0, 1, 1, 3), np.uint8), ())
        images = [image for _, image, _ in found]
        for (number, image, _), first in zip(found, images[:1] * len(found), strict=True):
            if image.shape != first.shape:
                raise different_sizes(self.name, first, image, self._records[number].key)
        captions = tuple(captions for _, _, captions in found)
        return NumberedImages(np.array([number for number, _, _ in found], np.int64), np.stack(images), captions)

    def fingerprint(self, count: int | None = None) -> str:
        """Return a hash of the content of each file, in their order, and of the size. No image is decoded."""
        numbers = range(min(len(self), len(self) if count is None else count))
        digest = hashlib.sha256(b"".join(self._threads.map(self._digest, numbers)))
        return f"records-{digest.hexdigest()}-{'own' if self._size is None else f'lanczos-{self._size}'}"

    def unreadable(self) -> tuple[BadRecord, ...]:
        """Return the images that could not be listed or read so far."""
        return tuple(self._bad.values())

    def _one(self, number: int) -> tuple[int, np.ndarray, tuple[str, ...]] | None:
        try:
            record = self._records[number]
            try:
                header = read_header(record.image, self._limits)
                refuse_sparse(header, len(record.image))
                image = decode_image(header)
            except BadImage as error:
                raise BadRecord(record.key, error.kind, error.reason) from error
        except BadRecord as problem:
            self._bad[number] = problem
            return None
        return number, self._prepared(image), record.captions

    def _digest(self, number: int) -> bytes:
        try:
            content = self._records[number].image
        except BadRecord:
            content = b""
        return hashlib.sha256(content).digest()

    def _prepared(self, image: Image.Image) -> np.ndarray:
        return np.asarray(image) if self._size is None else middle_square(image, self._size)


def middle_square(image: Image.Image, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """Return the middle square of an image, resized to ``size`` pixels a side unless it has this size."""
    if image.size == (size, size):
        return np.asarray(image)
    return crop_image(image, centre_box(*image.size), size)


class DecodedCodes:
    """The images of precomputed codes, which ``decode`` turns into pixels.

    ``tokenizer`` is a fingerprint of the model that decodes.
    """

    def __init__(
        self, name: str, codes: Source, decode: Callable[[np.ndarray], np.ndarray], tokenizer: str = ""
    ) -> None:
        self.name, self._codes, self._decode, self._tokenizer = name, codes, decode, tokenizer

    def __len__(self) -> int:
        return len(self._codes)

    def read(self, numbers: Sequence[int]) -> NumberedImages:
        """Read and decode codes."""
        examples = [self._codes[number] for number in numbers]
        images = self._decode(np.stack([one["codes"] for one in examples]))
        return NumberedImages(np.array(numbers, np.int64), images, tuple(tuple(one["captions"]) for one in examples))

    def fingerprint(self, count: int | None = None) -> str:
        """Return the fingerprints of the codes and the tokenizer, and the number of images."""
        return f"{self._codes.fingerprint()}-{self._tokenizer}-{len(self) if count is None else min(count, len(self))}"

    def unreadable(self) -> tuple[BadRecord, ...]:
        """Return nothing: shards were verified when they were opened."""
        return ()


def different_sizes(name: str, first: np.ndarray, other: np.ndarray, key: str) -> UserError:
    """Return the error for images of several sizes."""
    one, two = (f"{image.shape[1]}x{image.shape[0]}" for image in (first, other))
    return UserError(f"{name}: expected images of one size, got {one} and {two} ({key}); give a size to resize them to")


def stream(images: ImageSet, batch: int, count: int | None = None) -> Iterator[NumberedImages]:
    """Yield this process's share of the first ``count`` images, ``batch`` at a time; the next batch is read ahead.

    Processes take batches in turn. Raise ``UserError`` on all processes if the sizes of two batches differ, or if more
    than ``BAD_SHARE`` of the images read cannot be used.
    """
    process, processes = hosts.process_index_and_count()
    numbers = range(min(len(images), count if count is not None else len(images)))
    shares = [numbers[start : start + batch] for start in range(0, len(numbers), batch)][process::processes]
    first: np.ndarray | None = None
    with ThreadPoolExecutor(1) as ahead:
        waiting = [ahead.submit(images.read, share) for share in shares[:1]]
        for number in range(len(shares)):
            found = waiting.pop().result()
            waiting = [ahead.submit(images.read, share) for share in shares[number + 1 : number + 2]]
            if not len(found.numbers):
                continue
            if first is not None and found.images.shape[1:] != first.shape:
                raise different_sizes(images.name, first, found.images[0], f"number {found.numbers[0]}")
            first = found.images[0].copy() if first is None else first
            yield found
    _check_unreadable(images, len(numbers))


def _check_unreadable(images: ImageSet, count: int) -> None:
    bad = images.unreadable()
    if len(bad) > BAD_SHARE * max(count, 1):
        one = bad[0]
        raise UserError(
            f"{images.name}: expected images of which at least {1 - BAD_SHARE:.0%} can be read, got {len(bad)} of "
            f"{count:,} that cannot, such as {one}"
        )
