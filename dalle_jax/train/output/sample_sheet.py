"""Sample images of a task during training, tiled into one sheet."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from dalle_jax import storage
from dalle_jax.arrays import Float, UInt8

COLUMNS = 8
ONE_COLOUR = 0.02
"""An image counts as one colour if the standard deviation of each channel, in [0, 1], is below this."""


def sheet(images: Float[np.ndarray, "n H W C"]) -> UInt8[np.ndarray, "h w C"]:
    """Tile images with values in [0, 1] in rows of eight, with one white pixel between them."""
    count, height, width, channels = images.shape
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    values = np.rint(np.clip(images, 0.0, 1.0) * 255.0).astype(np.uint8)
    for index, image in enumerate(values):
        y, x = index // columns * (height + 1), index % columns * (width + 1)
        page[y : y + height, x : x + width] = image
    return page


def one_colour(images: Float[np.ndarray, "n H W C"]) -> float:
    """Return the share of images (values in [0, 1]) in which no channel varies by more than noise."""
    flat = images.reshape(images.shape[0], -1, images.shape[-1])  # [n HW C]
    return float(np.mean(flat.std(axis=1).max(axis=1) < ONE_COLOUR))


def write(out: Path, step: int, page: UInt8[np.ndarray, "h w C"]) -> Path:
    """Write the sheet to a file such as ``images/step_00000100.png`` and return its path."""
    path = out / "images" / f"step_{step:08d}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page).save(path)
    except OSError as error:
        raise storage.cannot_write(path, error) from error
    return path
