"""GLIDE (Nichol et al. 2021, arXiv 2112.10741): a UNet that reads a caption through its own text transformer.

The transformer attends in both directions. A learned vector per position replaces padding, which is not masked. The
output at the last position joins the time embedding, and all outputs are the UNet's context.

    B batch   T text length   D text width   E width of the time embedding
"""

from dataclasses import dataclass
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Bool, Float, Int, Key
from dalle_jax.layers.embeddings import Embedding
from dalle_jax.layers.linear import Linear
from dalle_jax.layers.norms import LayerNorm
from dalle_jax.layers.stack import Stack
from dalle_jax.models.clip import ClipBlock, TowerConfig, run_stack
from dalle_jax.models.patch_denoisers.patch_transformer import PatchTransformerConfig
from dalle_jax.models.unet import UNet, UNetConfig, UNetContext
from dalle_jax.parallel.axes import EMBED, MLP, POSITIONS, VOCAB


@dataclass(frozen=True)
class CaptionedUNetConfig:
    """Sizes of the UNet, or of its alternative, and of the text transformer, whose width is the ``context_width``."""

    unet: UNetConfig | PatchTransformerConfig
    vocab_size: int
    text_length: int
    text: TowerConfig
    scan: bool = False


@dataclass(frozen=True)
class GlideConfig(CaptionedUNetConfig):
    """Sizes of GLIDE's networks."""

    unet: UNetConfig

    def build(self, rngs: nnx.Rngs) -> "Glide":
        """Create the network with newly initialised weights."""
        return Glide(self, rngs=rngs)


class GlideText(nnx.Module):
    """The text transformer, with a norm at its end and a projection of the last position."""

    def __init__(self, config: CaptionedUNetConfig, *, rngs: nnx.Rngs):
        unet, text = config.unet, config.text
        if unet.context_width != text.width:
            raise ValueError(f"unet.context_width: expected text.width {text.width}, got {unet.context_width}")
        self.tokens = Embedding(config.vocab_size, text.width, axis=VOCAB, dtype=unet.dtype, rngs=rngs)
        self.positions, self.padding = (
            Embedding(config.text_length, text.width, axis=POSITIONS, dtype=unet.dtype, rngs=rngs) for _ in range(2)
        )

        def make_block(rngs: nnx.Rngs) -> ClipBlock:
            return ClipBlock(text, activation="gelu", dtype=unet.dtype, rngs=rngs)

        self.stack = Stack(make_block, (None,) * text.layers, scan=config.scan, remat=unet.remat, rngs=rngs)
        self.norm = LayerNorm(text.width, dtype=unet.dtype)
        self.project = Linear(text.width, unet.time_width, axes=(EMBED, MLP), dtype=unet.dtype, rngs=rngs)

    def __call__(
        self, tokens: Int[Array, "B T"], mask: Bool[Array, "B T"]
    ) -> tuple[Float[Array, "B T D"], Float[Array, "B E"]]:
        """Return the states of all positions and the projected last one; ``mask`` is False at padding."""
        x = self.tokens(tokens) + self.positions.all(tokens.shape[0])
        x = jnp.where(mask[..., None], x, self.padding.all(tokens.shape[0]))
        states = self.norm(run_stack(self.stack, x, None))
        return states, self.project(states[:, -1])


class Glide(nnx.Module):
    """The base, the upsampler or the inpainting network; they differ in the channels of ``extra``."""

    def __init__(self, config: GlideConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.text = GlideText(config, rngs=rngs)
        self.unet = UNet(config.unet, rngs=rngs)

    def __call__(
        self, noised: Float[Array, "B H W C"], time: Int[Array, " B"] | Float[Array, " B"],
        tokens: Int[Array, "B T"], mask: Bool[Array, "B T"], *, extra: Float[Array, "B H W e"] | None = None,
        key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B H W F"]:  # fmt: skip
        """Predict from noised images and padded token ids, as ``UNet.__call__``."""
        states, vector = self.text(tokens, mask)
        return self.unet(noised, time, vector=vector, context=UNetContext(states), extra=extra, key=key)


KEPT_CHANNELS = 4
"""The channels of ``kept_pixels``: those of the masked image, and the mask."""


class KnownPixels(NamedTuple):
    """An image in -1 .. 1 to inpaint, and the places that are kept: 1 there, 0 in the hole."""

    image: Float[Array, "B H W 3"]
    mask: Float[Array, "B H W 1"]


def low_resolution(image: Float[Array, "B h w C"], size: tuple[int, int]) -> Float[Array, "B H W C"]:
    """Enlarge an image bilinearly to ``size`` (H, W): the upsampler's ``extra``."""
    return jax.image.resize(image, (image.shape[0], *size, image.shape[-1]), "bilinear", antialias=False)


def kept_pixels(image: Float[Array, "B H W C"], mask: Float[Array, "B H W 1"]) -> Float[Array, "B H W c"]:
    """Return the masked image and the mask, 1 where pixels are kept: the inpainting network's ``extra``."""
    return jnp.concatenate([image * mask, mask], axis=-1)
