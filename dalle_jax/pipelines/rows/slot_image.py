"""An image that asks for a slot of a running batch."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Bool, Float, Int, Key, UInt8
from dalle_jax.sampling.autoregressive import image_keys
from dalle_jax.sampling.options import SamplingOptions


class GivenRow(NamedTuple):
    """The codes of one image that are given; ``codes`` is read only where ``keep`` is True."""

    codes: Int[np.ndarray, " I"]
    keep: Bool[np.ndarray, " I"]


class HoleRow(NamedTuple):
    """A window of the model's size, and its pixels that are drawn anew."""

    window: UInt8[np.ndarray, "S S 3"]
    hidden: Bool[np.ndarray, "S S"]


class VectorRow(NamedTuple):
    """A CLIP vector that is decoded alone, and the noise to begin with, None for that of the key.

    From a given noise DDIM samples, with the share ``eta`` of new noise in a step.
    """

    vector: Float[np.ndarray, " E"]
    start: Float[np.ndarray, " *noise"] | None
    eta: float


class SlotImage(NamedTuple):
    """An image to sample. Its noise depends on ``seed``, ``candidate`` and ``number`` alone.

    ``candidate`` is its number among those of the seed. ``number`` counts the windows of an edited image; None is not
    part of the key. A transformer reads ``given``, and so does an unCLIP of codes, which also reads ``vector``. Models
    of pixels read ``hole`` and ``vector``.
    """

    context: int
    seed: int
    candidate: int
    options: SamplingOptions
    given: GivenRow | None = None
    number: int | None = None
    hole: HoleRow | None = None
    vector: VectorRow | None = None

    def key(self) -> Key[Array, " 1"]:
        """Return the image's key."""
        keys = image_keys(jnp.asarray([self.seed], jnp.uint32), 1, first=self.candidate)[0]
        number = self.number
        return keys if number is None else jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)
