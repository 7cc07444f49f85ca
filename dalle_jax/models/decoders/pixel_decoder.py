"""DALL·E 2's decoder: GLIDE's UNet and text transformer, with a CLIP image embedding (arXiv 2204.06125, section 2.1).

A patch transformer (patch_denoisers/patch_transformer.py) may take the UNet's place, with the same conditions. A
``space`` chooses the array that is denoised: pixels, or the latents of an image tokenizer (models/spaces/space.py). A
projection of the embedding is added to the time embedding. Another one gives four tokens, which precede the
caption's states in the context. A learned vector stands for a dropped embedding, and padding for a dropped caption.
Without embeddings it is GLIDE's base network.

    B batch   H W pixels   h w c denoised array   T text length   D context width   E CLIP embedding
    C image tokens   F time width
"""

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Key
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.trained_diffusion import TrainedDiffusion, model_output
from dalle_jax.layers.embeddings import EmbeddingParam
from dalle_jax.layers.linear import Linear
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.models.glide import CaptionedUNetConfig, GlideText
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.spaces.space import Latents, LatentSpace, LatentStatistics, PixelSpace
from dalle_jax.models.unet import UNetContext
from dalle_jax.parallel.axes import EMBED


class ImageCondition(NamedTuple):
    """The conditions of a sample, computed once: the context of attention, and an addend of the time embedding."""

    context: Float[Array, "B S D"]
    time: Float[Array, "B F"]


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig(CaptionedUNetConfig):
    """Sizes of the network and of its square images, the width of the CLIP's embedding, and the diffusion."""

    image_size: int
    embed_width: int
    image_tokens: int = 4
    space: PixelSpace | Latents = field(default_factory=PixelSpace)
    diffusion: TrainedDiffusion = field(default_factory=TrainedDiffusion)

    def __post_init__(self) -> None:
        self.diffusion.check_variance(self.learned_variance)
        if self.image_size % (factor := self.unet.side_multiple * self.space.downsample):
            raise ValueError(
                f"image_size: expected a multiple of {factor}, the UNet's or the patch's, got {self.image_size}"
            )
        if self.unet.channels != self.space.channels:
            raise ValueError(f"unet.channels: expected {self.space.channels}, as space has, got {self.unet.channels}")
        if self.learned_variance and isinstance(self.space, Latents):
            raise ValueError("unet.learned_variance: expected False for latents, whose bound is not one of pixels")

    @property
    def learned_variance(self) -> bool:
        """True if the network learns a variance."""
        return self.unet.learned_variance

    def build(self, rngs: nnx.Rngs) -> "PixelDecoder":
        """Create the network with newly initialised weights."""
        return PixelDecoder(self, rngs=rngs)


class PixelDecoder(nnx.Module):
    """The network ``(noised image, level, caption and embedding) -> prediction``."""

    def __init__(self, config: PixelDecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        embed, dtype = config.embed_width, config.unet.dtype
        self.text = GlideText(config, rngs=rngs)
        self.unet = config.unet.build(rngs)
        no_clip = nnx.initializers.normal(1.0)(rngs.params(), (embed,), jnp.float32)
        self.no_clip = EmbeddingParam(no_clip, axes=(None,))
        self.clip_to_time = Linear(embed, config.unet.time_width, axes=(None, EMBED), dtype=dtype, rngs=rngs)
        self.clip_to_tokens = Linear(
            embed, (config.image_tokens, config.unet.context_width), axes=(None, None, EMBED), dtype=dtype, rngs=rngs
        )
        space = config.space
        self.statistics = LatentStatistics(space.channels, space.images) if isinstance(space, Latents) else None

    def space(self, tokenizer: ImageTokenizer | None) -> PixelSpace | LatentSpace:
        """Return the space that is denoised; ``tokenizer`` is the one whose latents the decoder was trained on."""
        if self.statistics is None:
            return PixelSpace()
        if tokenizer is None:
            raise ValueError("tokenizer: expected the image tokenizer of the latents, got None")
        return LatentSpace(tokenizer, self.statistics)

    def condition(self, guide: Guide) -> ImageCondition:
        """Compute the conditions of captions and embeddings; embeddings are scaled from length 1 to variance 1."""
        scaled = math.sqrt(self.config.embed_width) * guide.clip
        clip = jnp.where(guide.has_clip[:, None], scaled, self.no_clip[...])
        states, time = self.text(guide.text, guide.text != 0)
        context = jnp.concatenate([self.clip_to_tokens(clip), states], axis=1)  # [B C+T D]
        return ImageCondition(context, time + self.clip_to_time(clip))

    def denoise(
        self,
        x: Float[Array, "B h w c"],
        level: NoiseLevel,
        condition: ImageCondition,
        key: Key[Array, ""] | None = None,
    ) -> ModelOutput:
        """Predict from noised x0; without ``key`` there is no dropout. A ``ConditionedDenoiser``."""
        context = UNetContext(condition.context)
        values = self.unet(x, level.time, vector=condition.time, context=context, key=key)
        return model_output(values, self.config.learned_variance)

    def __call__(
        self, x: Float[Array, "B h w c"], level: NoiseLevel, guide: Guide, key: Key[Array, ""] | None = None
    ) -> ModelOutput:
        """Predict from noised x0, captions and embeddings."""
        return self.denoise(x, level, self.condition(guide), key)
