"""Forecasting heads: linear guesses of the next codes of a trained transformer, for parallel decoding.

Wiggers and Hoogeboom 2020 (arXiv 2002.09928) forecast codes with small modules over the model's last features. Medusa
(Cai et al. 2024, arXiv 2401.10774) has such heads for text. Head t reads the output o_i of the last norm, from which
the transformer predicts code i, and the embedding e_i of code i once that is drawn:

    logits_t = A_t o_i + B_t e_i + b_t        a guess of code i + t, t = 1 ... T
    guess    = argmax(logits_t + c_t noise)   with the Gumbel noise that will draw code i + t, and a learned weight c_t

A guess does not change any code that is sampled (sampling/slots.py). Letters as in arrays.py; T is the number of heads.
"""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.linear import Linear
from dalle_jax.parallel.axes import CODES, EMBED
from dalle_jax.sampling.forecasts import Forecast


@dataclass(frozen=True)
class ForecastHeadsConfig:
    """Sizes of the heads, those of the transformer that they belong to, and its fingerprint.

    ``transformer`` is ``fingerprint_of_model`` of its folder (pipelines/load/model_fingerprints.py). It is empty in a
    plan, which reads no trained transformer.
    """

    codebook_size: int
    width: int
    heads: int = 2
    transformer: str = ""
    dtype: Literal["float32", "bfloat16"] = "float32"

    def __post_init__(self) -> None:
        if self.heads < 1:
            raise ValueError(f"heads: expected 1 or more, got {self.heads}")

    def build(self, rngs: nnx.Rngs) -> "ForecastHeads":
        """Create the heads; before training their guess is the code of the largest noise."""
        return ForecastHeads(self, rngs=rngs)


class ForecastHeads(nnx.Module):
    """T linear heads over the output at code i and the embedding of code i, for codes i + 1 to i + T."""

    def __init__(self, config: ForecastHeadsConfig, *, rngs: nnx.Rngs):
        self.config = config
        shape, axes, zeros = (config.heads, config.codebook_size), (EMBED, None, CODES), nnx.initializers.zeros
        self.output = Linear(
            config.width, shape, axes=axes, dtype=config.dtype, out_dtype=jnp.float32, init=zeros, rngs=rngs
        )
        self.code = Linear(
            config.width, shape, axes=axes, bias=False, dtype=config.dtype, out_dtype=jnp.float32, init=zeros, rngs=rngs
        )
        self.noise = nnx.Param(jnp.ones(config.heads), axes=(None,))

    def logits(self, outputs: Float[Array, "... D"], embedded: Float[Array, "... D"]) -> Float[Array, "... T K"]:
        """Return the float32 logits of the next T codes."""
        return self.output(outputs) + self.code(embedded)

    def __call__(self, outputs: Float[Array, "B D"], embedded: Float[Array, "B D"]) -> Forecast:
        """Return the logits of the next T codes, and the weights of their noise."""
        return Forecast(self.logits(outputs, embedded), self.noise[...])
