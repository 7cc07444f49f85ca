"""The text vector in place of an image vector: DALL·E 2 without a prior (arXiv 2204.06125, section 5.1)."""

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.models.priors.prior import PriorOptions, TextCondition


class TextVectorPrior(nnx.Module):
    """The baseline without a prior: it has no parameters, and returns the vector of the text."""

    @property
    def unit_vectors(self) -> bool:
        """True: text and image vectors have length 1."""
        return True

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Return the text vector of each prompt, M times."""
        del empty, options
        return jnp.repeat(text.vector[:, None], keys.shape[1], axis=1)
