"""The one-step prior of ECLIPSE: a transformer that regresses the image vector from the text (arXiv 2312.04655).

The sequence is  text states (T), text vector, learned token;  the output at the learned token is the normalised image
vector. It draws no noise, so all vectors of one prompt are equal. Letters are those of prior.py; D width.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.models.priors.prior import PriorOptions, TextCondition, causal_mask
from dalle_jax.models.priors.transformer import PriorTransformer, PriorTransformerConfig

AFTER_TEXT = 2
"""Positions after the text states: text vector, learned token."""


@dataclass(frozen=True)
class OneStepPriorConfig(PriorTransformerConfig):
    """Sizes and options of the network, which has no further tokens."""

    def build(self, rngs: nnx.Rngs) -> "OneStepPrior":
        """Create the network with newly initialised weights."""
        return OneStepPrior(self, rngs=rngs)


class OneStepPrior(PriorTransformer):
    """A regression of the image vector from the text. Implements ``Prior``."""

    def __init__(self, config: OneStepPriorConfig, *, rngs: nnx.Rngs):
        super().__init__(config, AFTER_TEXT, rngs=rngs)

    def __call__(self, text: TextCondition) -> Float[Array, "B E"]:
        """Predict the normalised image vector."""
        return self.predict(self.sequence(text, []), causal_mask(text.mask, AFTER_TEXT))

    def draw(
        self, text: TextCondition, empty: TextCondition, keys: Key[Array, "P M"], options: PriorOptions
    ) -> Float[Array, "P M E"]:
        """Return the predicted vector of each prompt, M times."""
        del empty, options
        return jnp.repeat(self.denormalise(self(text))[:, None], keys.shape[1], axis=1)
