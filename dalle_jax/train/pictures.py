"""The pictures that a task draws while it trains, as one sheet."""

import math
from pathlib import Path

import numpy as np
from PIL import Image

from dalle_jax.arrays import Float, UInt8
from dalle_jax.train.writers import unwritable

COLUMNS = 8
ONE_COLOUR = 0.02
"""The largest standard deviation of a channel, in [0, 1], in a picture that looks like one colour."""


def sheet(pictures: Float[np.ndarray, "n H W C"]) -> UInt8[np.ndarray, "h w C"]:
    """Pictures in [0, 1], in rows of eight from left to right, with one white pixel between them."""
    count, height, width, channels = pictures.shape
    columns = min(count, COLUMNS)
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, channels), 255, np.uint8)
    values = np.rint(np.clip(pictures, 0.0, 1.0) * 255.0).astype(np.uint8)
    for index, picture in enumerate(values):
        y, x = index // columns * (height + 1), index % columns * (width + 1)
        page[y : y + height, x : x + width] = picture
    return page


def one_colour(pictures: Float[np.ndarray, "n H W C"]) -> float:
    """The share of the pictures in which no channel varies by more than noise (values in [0, 1])."""
    flat = pictures.reshape(pictures.shape[0], -1, pictures.shape[-1])  # [n HW C]
    return float(np.mean(flat.std(axis=1).max(axis=1) < ONE_COLOUR))


def write(out: Path, step: int, page: UInt8[np.ndarray, "h w C"]) -> Path:
    """``pictures/step_00000100.png``."""
    path = out / "pictures" / f"step_{step:08d}.png"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(page).save(path)
    except OSError as error:
        raise unwritable(path, error) from error
    return path
