"""A head that predicts an image's codes from its CLIP embedding, which then keeps details that no caption mentions.

With CLIP's loss alone, an image embedding keeps only attributes that distinguish captions. If the image's codes are
predicted from it, it keeps positions and sizes too. This is an image-only loss in addition to CLIP's, as in SLIP (Mu et
al. 2021, arXiv 2112.12750), with reconstruction instead of augmented views.

    B batch   E embedding   F hidden width   I places of the grid   D width   K codebook
"""

import math
from dataclasses import dataclass

import jax
from flax import nnx

from dalle_jax.arrays import Array, Float
from dalle_jax.layers.code_tokens import CodeFeatures
from dalle_jax.layers.linear import Linear, project
from dalle_jax.models.clip import Clip, ClipConfig
from dalle_jax.parallel.axes import EMBED, MLP


@dataclass(frozen=True)
class CodeReadoutConfig:
    """Sizes of the head: ``hidden`` for the whole image, ``width`` for each place."""

    codebook_size: int
    code_width: int
    grid: tuple[int, int]
    hidden: int = 256
    width: int = 48

    def build(self, clip: ClipConfig, rngs: nnx.Rngs) -> "ReadableClip":
        """Create a CLIP and its head with newly initialised weights."""
        return ReadableClip(clip, self, rngs=rngs)


class CodeReadout(nnx.Module):
    """An MLP from an embedding to a vector per place, which is compared with features of the code vectors."""

    def __init__(self, config: CodeReadoutConfig, embed_width: int, *, rngs: nnx.Rngs):
        places = math.prod(config.grid)
        self.up = Linear(embed_width, config.hidden, axes=(None, EMBED), rngs=rngs)
        self.places = Linear(config.hidden, (places, config.width), axes=(EMBED, None, MLP), rngs=rngs)
        self.features = CodeFeatures(config.codebook_size, config.code_width, config.width, rngs=rngs)

    def set_code_vectors(self, vectors: Float[Array, "K c"]) -> None:
        """Store the image tokenizer's code vectors, standardised."""
        self.features.vectors[...] = (vectors - vectors.mean(axis=0)) / vectors.std()

    def __call__(self, embedding: Float[Array, "B E"]) -> Float[Array, "B I K"]:
        """Return float32 logits of the codes at each place from unit vectors."""
        hidden = jax.nn.gelu(self.up(embedding * math.sqrt(embedding.shape[-1])))  # [B F]
        places = self.places(hidden)  # [B I D]
        return project(places, self.features().T * places.shape[-1] ** -0.5, 1, "float32")


class ReadableClip(nnx.Module):
    """A CLIP and the head that reads codes from its image embedding. Only the CLIP is used after training."""

    def __init__(self, clip: ClipConfig, readout: CodeReadoutConfig, *, rngs: nnx.Rngs):
        self.clip = Clip(clip, rngs=rngs)
        self.readout = CodeReadout(readout, clip.embed_width, rngs=rngs)
