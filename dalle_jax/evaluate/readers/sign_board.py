"""The board of a sign, cut out of an image and turned into dark ink on white paper, as OCR programs expect."""

import numpy as np
from PIL import Image

from dalle_jax.arrays import UInt8

FAR = 60.0
"""The distance in RGB from the colour of the image's border at which a pixel belongs to the board."""
BOARD_HEIGHT = 44
"""The height of a board that is read, in pixels; its letters are then about 28 pixels high."""


def ink_on_white(image: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w"]:
    """Return the board of a sign at ``BOARD_HEIGHT``, its colour as white and the farthest colour from it as black.

    An image without a board is taken as a whole.
    """
    pixels = image.astype(np.float32)
    board = _board(pixels)
    distance = np.linalg.norm(board - np.median(board.reshape(-1, 3), axis=0), axis=-1)  # [h w]
    ink = distance / max(float(distance.max()), 1.0)
    height, width = ink.shape
    grey = Image.fromarray((255 * (1 - ink) + 0.5).astype(np.uint8))
    return np.asarray(
        grey.resize((max(1, round(width * BOARD_HEIGHT / height)), BOARD_HEIGHT), Image.Resampling.BICUBIC)
    )


def _board(pixels: np.ndarray) -> np.ndarray:
    """Return the rows and columns in which many pixels differ from the border, without their outermost ones."""
    border = np.concatenate([pixels[:, 0], pixels[:, -1]])
    far = np.linalg.norm(pixels - np.median(border, axis=0), axis=-1) > FAR  # [H W]
    rows, columns = np.flatnonzero(far.mean(axis=1) > 0.5), np.flatnonzero(far.mean(axis=0) > 0.2)
    if len(rows) < 8 or len(columns) < 8:
        return pixels
    return pixels[rows[0] + 1 : rows[-1], columns[0] + 1 : columns[-1]]
