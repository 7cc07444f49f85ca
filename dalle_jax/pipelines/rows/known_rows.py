"""Known pixels of rows: of windows with a hole, and of whole images, of which nothing is known."""

import functools

import jax.numpy as jnp

from dalle_jax.models.glide import KnownPixels
from dalle_jax.pipelines.edits.pixel_filler import known_pixels
from dalle_jax.pipelines.rows.slot_image import HoleRow


@functools.lru_cache(maxsize=8)
def nothing_known(side: int) -> KnownPixels:
    """Return the known pixels [1 side side …] of an image that is drawn as a whole."""
    return KnownPixels(jnp.zeros((1, side, side, 3)), jnp.zeros((1, side, side, 1)))


def known_of(hole: HoleRow | None, side: int) -> KnownPixels:
    """Return the known pixels of a row at a stage's side."""
    return nothing_known(side) if hole is None else known_pixels(hole.window[None], hole.hidden[None], side)
