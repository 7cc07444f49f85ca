"""DALL·E 2's decoder: GLIDE's UNet and text transformer, with a CLIP image embedding (arXiv 2204.06125, section 2.1).

A patch transformer (patch_denoisers/patch_transformer.py) may take the UNet's place, with the same conditions. A
``space`` chooses the array that is denoised: pixels, or the latents of an image tokenizer (models/spaces/space.py). A
projection of the embedding is added to the time embedding. Another one gives four tokens, which precede the
caption's states in the context. A learned vector stands for a dropped embedding, and padding for a dropped caption.
Without embeddings it is GLIDE's base network. With extra channels it inpaints: they hold the known pixels and the mask
(GLIDE, arXiv 2112.10741, section 4.3).

    B batch   H W pixels   h w c denoised array   T text length   D context width   E CLIP embedding
    C image tokens   F time width   e extra channels
"""

import math
from dataclasses import dataclass, field, replace
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
from dalle_jax.models.glide import KEPT_CHANNELS, CaptionedUNetConfig, GlideText, KnownPixels, kept_pixels
from dalle_jax.models.image_tokenizer import ImageTokenizer
from dalle_jax.models.spaces.space import Latents, LatentSpace, LatentStatistics, PixelSpace
from dalle_jax.models.unet import UNetContext
from dalle_jax.parallel.axes import EMBED


class ImageCondition(NamedTuple):
    """The conditions of a sample, computed once.

    They are the context of attention, an addend of the time embedding, and the extra channels of a decoder that
    inpaints.
    """

    context: Float[Array, "B S D"]
    time: Float[Array, "B F"]
    extra: Float[Array, "B H W e"] | None = None


@dataclass(frozen=True, kw_only=True)
class PixelDecoderConfig(CaptionedUNetConfig):
    """Sizes of the network and of its square images, the width of the CLIP's embedding, and the diffusion.

    ``unet.extra_channels`` is 0, or 4 for a decoder that inpaints: the masked image and its mask.
    """

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
        extra = self.unet.extra_channels
        if extra and (extra != KEPT_CHANNELS or isinstance(self.space, Latents)):
            raise ValueError(
                f"unet.extra_channels: expected 0, or {KEPT_CHANNELS} for a decoder of pixels that inpaints, got "
                f"{extra} for @{type(self.space).__name__}"
            )

    @property
    def learned_variance(self) -> bool:
        """True if the network learns a variance."""
        return self.unet.learned_variance

    @property
    def inpaints(self) -> bool:
        """True if the network reads known pixels and their mask."""
        return bool(self.unet.extra_channels)

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

    def with_extra_channels(self) -> "PixelDecoder":
        """Return a copy that inpaints and predicts as this decoder does for any known pixels, until it is trained."""
        network = nnx.clone(self)
        network.unet = self.unet.with_extra_channels(KEPT_CHANNELS)
        network.config = replace(self.config, unet=network.unet.config)
        return network

    def condition(self, guide: Guide, known: KnownPixels | None = None) -> ImageCondition:
        """Compute the conditions of captions and embeddings; embeddings are scaled from length 1 to variance 1.

        A decoder that inpaints reads ``known`` pixels; without them nothing is known. Raise ValueError for a decoder
        that does not.
        """
        scaled = math.sqrt(self.config.embed_width) * guide.clip
        clip = jnp.where(guide.has_clip[:, None], scaled, self.no_clip[...])
        states, time = self.text(guide.text, guide.text != 0)
        context = jnp.concatenate([self.clip_to_tokens(clip), states], axis=1)  # [B C+T D]
        return ImageCondition(context, time + self.clip_to_time(clip), self._extra(clip.shape[0], known))

    def _extra(self, rows: int, known: KnownPixels | None) -> Float[Array, "B H W e"] | None:
        """Return the extra channels: zero where nothing is known, the mask's included."""
        if not self.config.inpaints:
            if known is not None:
                raise ValueError("known: expected None for a decoder without unet.extra_channels, got known pixels")
            return None
        side = self.config.image_size
        return jnp.zeros((rows, side, side, KEPT_CHANNELS)) if known is None else kept_pixels(*known)

    def denoise(
        self,
        x: Float[Array, "B h w c"],
        level: NoiseLevel,
        condition: ImageCondition,
        key: Key[Array, ""] | None = None,
    ) -> ModelOutput:
        """Predict from noised x0; without ``key`` there is no dropout. A ``ConditionedDenoiser``."""
        context = UNetContext(condition.context)
        values = self.unet(x, level.time, vector=condition.time, context=context, extra=condition.extra, key=key)
        return model_output(values, self.config.learned_variance)

    def __call__(
        self,
        x: Float[Array, "B h w c"],
        level: NoiseLevel,
        guide: Guide,
        key: Key[Array, ""] | None = None,
        known: KnownPixels | None = None,
    ) -> ModelOutput:
        """Predict from noised x0, captions and embeddings, and known pixels for a decoder that inpaints."""
        return self.denoise(x, level, self.condition(guide, known), key)
