"""Known pixels of windows at the size of a decoder or of an upsampler, for pipelines that denoise pixels."""

import jax.numpy as jnp
import numpy as np

from dalle_jax.models.glide import KnownPixels
from dalle_jax.pipelines.edits.filler import FillCall
from dalle_jax.pipelines.edits.windows import hidden_cells


def known_at(call: FillCall, side: int) -> KnownPixels:
    """Reduce the windows [P M S S 3] to ``side`` pixels, which divides S; rows are those of all candidates.

    A pixel is the mean of the square that it stands for, and it is known if no pixel of the square is hidden.
    """
    prompts, count, size = call.windows.shape[:3]
    squares = call.windows.reshape(prompts * count, side, size // side, side, size // side, 3)
    mask = np.stack([~hidden_cells(one, side, side) for one in call.hidden])  # [P s s]
    rows = np.repeat(mask[..., None], count, axis=0).astype(np.float32)
    return KnownPixels(jnp.asarray(squares.mean(axis=(2, 4)) / 127.5 - 1, jnp.float32), jnp.asarray(rows))
