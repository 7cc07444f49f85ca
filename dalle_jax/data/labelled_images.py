"""Images of records with chosen metadata, from training and from the held-out part of a source."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.config.errors import UserError
from dalle_jax.data.examples.held_out_pairs import AnyHeldOut
from dalle_jax.data.examples.images import DroppedRecord, Images
from dalle_jax.data.open_data import Openable
from dalle_jax.data.records import BadRecord, Metadata, Records
from dalle_jax.images.crops import centre_box, crop_image


@dataclass(frozen=True, eq=False)
class LabelledImage:
    """An image with the first caption of its record and the record's metadata."""

    image: UInt8[np.ndarray, "H W 3"]
    caption: str
    metadata: Metadata


def read_labelled_images(
    config: Openable, images: Images, held_out: AnyHeldOut, is_wanted: Callable[[Metadata], bool], count: int
) -> tuple[list[LabelledImage], list[LabelledImage]]:
    """Return up to ``count`` training images and up to ``count`` held-out images whose metadata is wanted.

    They are evenly spaced over the source and cropped at the centre. Bad records are left out. Raise ``UserError`` if
    the source holds no records.
    """
    records = config.open()
    if not isinstance(records, Records):
        raise UserError(f"data.source: expected images in files, with metadata, got {type(config).__name__}")
    held = held_out.held(records, np.arange(len(records)))
    wanted = np.array([_is_wanted(records, index, is_wanted) for index in range(len(records))], bool)
    training, held_images = (
        [one for index in _spaced(np.flatnonzero(part), count) if (one := _read(records, int(index), images))]
        for part in (wanted & ~held, wanted & held)
    )
    return training, held_images


def _spaced(indices: np.ndarray, count: int) -> np.ndarray:
    """Return at most ``count`` of the indices, evenly spaced."""
    return indices if len(indices) <= count else indices[np.arange(count) * len(indices) // count]


def _is_wanted(records: Records, index: int, is_wanted: Callable[[Metadata], bool]) -> bool:
    try:
        return is_wanted(records[index].metadata)
    except BadRecord:
        return False


def _read(records: Records, index: int, images: Images) -> LabelledImage | None:
    """Read and crop a record; None if it is bad or dropped by a filter."""
    centred = replace(images, crop="centre")
    try:
        record = records[index]
        checked = centred.check_record(record)
        decoded = centred.decode(checked)
    except (BadRecord, DroppedRecord):
        return None
    return LabelledImage(
        crop_image(decoded, centre_box(*decoded.size), images.size), record.captions[0], record.metadata
    )
