"""The interface of priors p(CLIP image vector | text), and the parts that several of them share (arXiv 2204.06125).

B batch   P prompts   M vectors of one prompt   T text length   S width of text states   E embedding   L positions
"""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Key
from dalle_jax.models.clip import Clip, ClipText, TextFeatures, unit


class TextCondition(NamedTuple):
    """The text that a prior reads: CLIP's states, its text vector, and the positions that hold text."""

    states: Float[Array, "B T S"]
    vector: Float[Array, "B E"]
    mask: Bool[Array, "B T"]


class VectorStatistics(NamedTuple):
    """The mean and the standard deviation of the image or text vectors of a data set, by dimension."""

    mean: Float[Array, " E"]
    std: Float[Array, " E"]


class VectorSample(NamedTuple):
    """The vectors of n training examples, of which a prior measures its statistics before training."""

    image: Float[np.ndarray, "n E"]
    text: Float[np.ndarray, "n E"]


SMALLEST_STD = 1e-6
"""The least standard deviation of a dimension, so that one that does not vary is not divided by 0."""


def statistics_of(vectors: Float[np.ndarray, "n E"]) -> VectorStatistics:
    """Compute mean and standard deviation by dimension, in float64."""
    wide = vectors.astype(np.float64)
    mean, std = wide.mean(axis=0), np.maximum(wide.std(axis=0), SMALLEST_STD)
    return VectorStatistics(jnp.asarray(mean, jnp.float32), jnp.asarray(std, jnp.float32))


class MeasuredStatistic(nnx.Variable):
    """A statistic of the data, which is not a parameter."""


@dataclass(frozen=True)
class PriorOptions:
    """Options of drawing image vectors.

    - ``guidance``: the scale of classifier-free guidance; 1 is off. One-step and MLP priors have none.
    - ``steps``: the reverse steps of a diffusion or MLP prior.
    - ``draws``: the vectors that a diffusion or MLP prior draws, of which it keeps the one nearest to the text's
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


class StandardisedVectors(nnx.Module):
    """The base class of priors over image vectors with mean 0 and variance 1 in each dimension."""

    def __init__(self, embed_width: int):
        """Create the statistics, mean 0 and deviation 1 until ``measure`` or ``set_statistics`` is called."""
        self.mean = MeasuredStatistic(jnp.zeros(embed_width), axes=(None,))
        self.std = MeasuredStatistic(jnp.ones(embed_width), axes=(None,))

    @property
    def unit_vectors(self) -> bool:
        """True if text and image vectors have length 1."""
        return True

    def measure(self, sample: VectorSample) -> None:
        """Store the statistics of a sample of the training data."""
        self.set_statistics(statistics_of(sample.image))

    def set_statistics(self, found: VectorStatistics) -> None:
        """Store the measured statistics of the image vectors."""
        self.mean[...], self.std[...] = found.mean, found.std

    def normalise(self, image: Float[Array, "... E"]) -> Float[Array, "... E"]:
        """Map image vectors to mean 0 and variance 1 in each dimension."""
        return (image - self.mean[...]) / self.std[...]

    def denormalise(self, x0: Float[Array, "... E"]) -> Float[Array, "... E"]:
        """Invert ``normalise``; the result has length 1 with ``unit_vectors``."""
        image = x0 * self.std[...] + self.mean[...]
        return unit(image) if self.unit_vectors else image


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
    best = jnp.einsum("rne,re->rn", vectors, text, precision=jax.lax.Precision.HIGHEST).argmax(axis=1)
    return jnp.take_along_axis(vectors, best[:, None, None], axis=1)[:, 0]
