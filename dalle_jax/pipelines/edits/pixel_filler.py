"""Known pixels of windows at the size of a decoder or of an upsampler, for pipelines that denoise pixels."""

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Bool, UInt8
from dalle_jax.models.glide import KnownPixels
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.edits.windows import hidden_cells


def known_at(call: FillCall, side: int) -> KnownPixels:
    """Reduce the windows [P M S S 3] to ``side`` pixels, which divides S; rows are those of all candidates.

    A pixel is the mean of the square that it stands for, and it is known if no pixel of the square is hidden.
    """
    count, size = call.windows.shape[1:3]
    windows, hidden = call.windows.reshape(-1, size, size, 3), np.repeat(call.hidden, count, axis=0)
    return known_pixels(windows, hidden, side)


def known_pixels(windows: UInt8[np.ndarray, "B S S 3"], hidden: Bool[np.ndarray, "B S S"], side: int) -> KnownPixels:
    """Reduce windows with a hole each, as ``known_at`` does those of a call."""
    count, size = windows.shape[:2]
    squares = windows.reshape(count, side, size // side, side, size // side, 3)
    mask = np.stack([~hidden_cells(one, side, side) for one in hidden])[..., None].astype(np.float32)  # [B s s 1]
    return KnownPixels(jnp.asarray(squares.mean(axis=(2, 4)) / 127.5 - 1, jnp.float32), jnp.asarray(mask))
