"""The interface of priors p(CLIP image vector | text), and the parts that several of them share (arXiv 2204.06125).

B batch   P prompts   M vectors of one prompt   T text length   S width of text states   E embedding   L positions
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Key
from dalle_jax.models.clip import Clip, ClipText, TextFeatures, unit


class TextCondition(NamedTuple):
    """The text that a prior reads: CLIP's states, its text vector, and the positions that hold text."""

    states: Float[Array, "B T S"]
    vector: Float[Array, "B E"]
    mask: Bool[Array, "B T"]


class ImageStatistics(NamedTuple):
    """The mean and the standard deviation of the image vectors of a data set, by dimension."""

    mean: Float[Array, " E"]
    std: Float[Array, " E"]


class MeasuredStatistic(nnx.Variable):
    """A statistic of the data, which is not a parameter."""


@dataclass(frozen=True)
class PriorOptions:
    """Options of drawing image vectors.

    - ``guidance``: the scale of classifier-free guidance; 1 is off. One-step and MLP priors have none.
    - ``steps``: the reverse steps of a diffusion prior.
    - ``draws``: the vectors that a diffusion prior draws, of which it keeps the one nearest to the text's
      (arXiv 2204.06125, section 2.2).
    """

    guidance: float = 4.0
    steps: int = 25
    draws: int = 2

    def __post_init__(self) -> None:
        if self.steps < 2 or self.draws < 1 or self.guidance < 0:
            raise ValueError(
                "steps, draws, guidance: expected at least 2, 1 and 0, "
                f"got {self.steps}, {self.draws} and {self.guidance}"
            )


@runtime_checkable
class Prior(Protocol):
    """A network that draws CLIP image vectors for a text."""

    @property
    def unit_vectors(self) -> bool:
        """True if text vectors are given, and image vectors returned, with length 1."""
        ...

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Draw M vectors for each prompt, from a key each. ``empty`` is the empty text, one row for all prompts."""
        ...


def read_text(clip: Clip | ClipText, ids: Array, unit_vectors: bool) -> TextCondition:
    """Compute the condition of token ids [B T] with a frozen CLIP, its vectors L2-normalised if asked for."""
    found: TextFeatures = clip.text.features(ids)
    vector = unit(found.vector) if unit_vectors else found.vector.astype(jnp.float32)
    return TextCondition(found.states.astype(jnp.float32), vector, found.mask)


def repeat_rows(text: TextCondition, count: int) -> TextCondition:
    """Repeat each row ``count`` times, next to each other."""
    return TextCondition(*(jnp.repeat(leaf, count, axis=0) for leaf in text))


def causal_mask(mask: Bool[Array, "B T"], more: int) -> Bool[Array, "B 1 L L"]:
    """Return the mask of T text positions and ``more`` later ones: earlier positions that are not padding."""
    keys = jnp.pad(mask, ((0, 0), (0, more)), constant_values=True)  # [B L]
    return jnp.tri(keys.shape[1], dtype=bool)[None, None] & keys[:, None, None]


def nearest(vectors: Float[Array, "R n E"], text: Float[Array, "R E"]) -> Float[Array, "R E"]:
    """Return the vector of each row with the highest dot product with the row's text vector."""
    best = jnp.einsum("rne,re->rn", vectors, text).argmax(axis=1)
    return jnp.take_along_axis(vectors, best[:, None, None], axis=1)[:, 0]
