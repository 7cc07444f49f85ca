"""The conditions of unCLIP's decoder: context tokens and a time embedding from CLIP vectors (arXiv 2204.06125, 2.1).

The context is  image tokens (C), text states (T). Layout and arithmetic match the published Karlo.
B batch   T text length   S width of text states   E embedding   C image tokens   D width of the context   F time width
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float
from dalle_jax.layers.embeddings import EmbeddingParam
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.models.priors.prior import TextCondition
from dalle_jax.parallel.axes import EMBED


class DecoderCondition(NamedTuple):
    """The conditions of the decoder: the context of cross-attention, its mask, and an addend of the time embedding."""

    context: Float[Array, "B C+T D"]
    mask: Bool[Array, "B C+T"]
    time: Float[Array, "B F"]


@dataclass(frozen=True)
class UnclipTextProjectionConfig:
    """Sizes of the network: widths of CLIP's embedding and text states, of the context and of the time embedding."""

    embed_width: int
    text_width: int
    width: int
    time_width: int
    image_tokens: int = 4
    dtype: Literal["float32", "bfloat16"] = "float32"

    def build(self, rngs: nnx.Rngs) -> "UnclipTextProjection":
        """Create the network with newly initialised weights."""
        return UnclipTextProjection(self, rngs=rngs)


class UnclipTextProjection(nnx.Module):
    """The projections of the image vector, the text vector and the text states."""

    def __init__(self, config: UnclipTextProjectionConfig, *, rngs: nnx.Rngs):
        self.config = config
        embed, dtype, axes = config.embed_width, config.dtype, (None, EMBED)
        init = nnx.initializers.normal(1.0)
        self.no_image = EmbeddingParam(init(rngs.params(), (embed,), jnp.float32), axes=(None,))
        self.text_to_time = Linear(embed, config.time_width, axes=axes, dtype=dtype, rngs=rngs)
        self.image_to_time = Linear(embed, config.time_width, axes=axes, dtype=dtype, rngs=rngs)
        self.image_to_tokens = Linear(embed, config.image_tokens * config.width, axes=axes, dtype=dtype, rngs=rngs)
        self.states_in = Linear(config.text_width, config.width, axes=axes, dtype=dtype, rngs=rngs)
        self.norm = LayerNorm(config.width, dtype=dtype)

    def without_image(self, rows: int) -> Float[Array, "B E"]:
        """Return the learned vector that stands for no image, for guidance and for dropped images."""
        return jnp.broadcast_to(self.no_image[...], (rows, self.config.embed_width))

    def __call__(self, image: Float[Array, "B E"], text: TextCondition) -> DecoderCondition:
        """Project an image vector and a text.

        The product that gives the image tokens is channel-major: output d * C + c is channel d of token c.
        """
        config = self.config
        tokens = self.image_to_tokens(image).reshape(-1, config.width, config.image_tokens).swapaxes(1, 2)  # [B C D]
        context = jnp.concatenate([tokens, self.norm(self.states_in(text.states))], axis=1)
        mask = jnp.pad(text.mask, ((0, 0), (config.image_tokens, 0)), constant_values=True)
        return DecoderCondition(context, mask, self.text_to_time(text.vector) + self.image_to_time(image))
