"""Diffusion decoders as policies: their steps, their guided denoiser, and the images of the last step."""

from dataclasses import dataclass
from typing import NamedTuple, Protocol, cast, runtime_checkable

import jax.numpy as jnp
from flax import nnx

from dalle_jax import storage
from dalle_jax.arrays import Array, Float, Int
from dalle_jax.config.errors import UserError
from dalle_jax.diffusion.code_vectors import expected_vectors, guided_logits, signal_shares
from dalle_jax.diffusion.continuous import straight_levels
from dalle_jax.diffusion.guidance import Guidance, classifier_free
from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import Denoiser, ModelOutput, Parameterization
from dalle_jax.diffusion.step_policy import StepPolicy
from dalle_jax.models.code_denoiser import CodeDenoiser, Guide
from dalle_jax.models.decoders.pixel_decoder import PixelDecoder
from dalle_jax.parallel.layout import Layout
from dalle_jax.pipelines.load.models import load_code_denoiser, load_pixel_decoder
from dalle_jax.tasks.denoise_codes import DenoiseCodes
from dalle_jax.tasks.denoise_images import DenoiseImages
from dalle_jax.tasks.frozen_networks import IMAGE_TOKENIZER, image_tokenizer_of
from dalle_jax.tasks.image_denoising import TrainedDenoiser
from dalle_jax.train.task import Frozen


class DecodedImages(NamedTuple):
    """Images in 0 .. 1, and the codes that they were decoded from; [B 0] for a decoder without codes."""

    pixels: Float[Array, "B H W 3"]
    codes: Int[Array, "B I"]


@runtime_checkable
class DecoderPolicy(Protocol):
    """A decoder with the sampler of its rollouts."""

    @property
    def steps(self) -> StepPolicy:
        """The sampler's steps."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of x."""
        ...

    @property
    def has_codes(self) -> bool:
        """True if images are decoded from codes."""
        ...

    def denoiser(self, network: nnx.Module, guide: Guide) -> Denoiser:
        """Return the guided denoiser of a decoder, for fixed captions and embeddings."""
        ...

    def decode(self, network: nnx.Module, frozen: Frozen, x: Float[Array, " B *shape"], guide: Guide) -> DecodedImages:
        """Return the images of the x after the last step."""
        ...

    def load(self, folder: str, layout: Layout) -> nnx.Module:
        """Load a decoder of the policy's sizes. Raise ``UserError`` if the folder holds a different one."""
        ...

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Create a decoder with new weights."""
        ...


@dataclass(frozen=True)
class CodePolicy:
    """A decoder of codes. The most likely codes are taken at the last level, as ``sample_codes`` does."""

    config: DenoiseCodes
    count: int
    eta: float
    guidance: float

    has_codes = True

    @property
    def steps(self) -> StepPolicy:
        """The steps between the ``count`` times at which ``sample_codes`` asks the denoiser."""
        return StepPolicy(straight_levels(signal_shares(self.count)), self.eta, Parameterization("x0"))

    @property
    def shape(self) -> tuple[int, ...]:
        """The vectors [I c] of an image's codes."""
        model = self.config.model
        return model.grid[0] * model.grid[1], model.code_width

    def denoiser(self, network: nnx.Module, guide: Guide) -> Denoiser:
        """Predict the mean of the code vectors."""
        return expected_vectors(cast(CodeDenoiser, network), guide, self._scale(guide), self._nothing(guide))

    def decode(self, network: nnx.Module, frozen: Frozen, x: Float[Array, " B *shape"], guide: Guide) -> DecodedImages:
        """Take the most likely codes, and decode them by the image tokenizer."""
        time = jnp.full(x.shape[:1], signal_shares(self.count)[-1], jnp.float32)
        denoiser = cast(CodeDenoiser, network)
        logits = guided_logits(denoiser, x, time, guide, self._nothing(guide), self._scale(guide))
        codes = jnp.argmax(logits, axis=-1).astype(jnp.int32)
        return DecodedImages(image_tokenizer_of(frozen).decode(codes.reshape(-1, *self.config.model.grid)), codes)

    def load(self, folder: str, layout: Layout) -> nnx.Module:
        """Load a code denoiser."""
        network = load_code_denoiser(storage.place(folder), layout)
        _check_same(folder, network.config, self.config.model)
        return network

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Create a code denoiser."""
        return self.config.model.build(rngs)

    def _nothing(self, guide: Guide) -> Guide | None:
        return None if self.guidance == 1.0 else guide.nothing()

    def _scale(self, guide: Guide) -> Float[Array, " B"]:
        return jnp.full(guide.text.shape[0], self.guidance)


@dataclass(frozen=True)
class PixelPolicy:
    """A decoder of pixels or of an image tokenizer's latents. Its x0 has the threshold of ``task.denoise.sampling``."""

    config: DenoiseImages
    count: int
    eta: float
    guidance: float

    has_codes = False

    @property
    def steps(self) -> StepPolicy:
        """The steps of the decoder's own sampling; the last one, to data, draws no noise."""
        diffusion = self.config.model.diffusion
        form = Parameterization(diffusion.prediction, self.config.sampling.threshold)
        return StepPolicy(diffusion.levels(self.count), self.eta, form)

    @property
    def shape(self) -> tuple[int, ...]:
        """The pixels [H W 3], or the latents [h w c]."""
        model = self.config.model
        side = model.image_size // model.space.downsample
        return side, side, model.space.channels

    def denoiser(self, network: nnx.Module, guide: Guide) -> Denoiser:
        """Predict from the caption and the embedding, which are read once."""
        decoder = cast(PixelDecoder, network)
        condition = decoder.condition(guide)

        def plain(x: Array, level: NoiseLevel) -> ModelOutput:
            return decoder.denoise(x, level, condition)

        if self.guidance == 1.0:
            return plain
        return classifier_free(decoder.denoise, condition, decoder.condition(guide.nothing()), Guidance(self.guidance))

    def decode(self, network: nnx.Module, frozen: Frozen, x: Float[Array, " B *shape"], guide: Guide) -> DecodedImages:
        """Return the pixels, of latents by the image tokenizer."""
        del guide
        tokenizer = image_tokenizer_of(frozen) if IMAGE_TOKENIZER in frozen else None
        pixels = cast(PixelDecoder, network).space(tokenizer).decode(x)
        return DecodedImages(pixels, jnp.zeros((x.shape[0], 0), jnp.int32))

    def load(self, folder: str, layout: Layout) -> nnx.Module:
        """Load a pixel decoder."""
        network = load_pixel_decoder(storage.place(folder), layout)
        _check_same(folder, network.config, self.config.model)
        return network

    def build(self, rngs: nnx.Rngs) -> nnx.Module:
        """Create a pixel decoder."""
        return self.config.model.build(rngs)


def policy_of(config: DenoiseCodes | DenoiseImages, *, steps: int, eta: float, guidance: float) -> DecoderPolicy:
    """Return the policy of a decoder that samples in ``steps`` steps."""
    if isinstance(config, DenoiseCodes):
        return CodePolicy(config, steps, eta, guidance)
    return PixelPolicy(config, steps, eta, guidance)


def decoder_of(module: nnx.Module) -> nnx.Module:
    """Return the decoder of a trained module, which may hold it with statistics of its training."""
    return module.network if isinstance(module, TrainedDenoiser) else module


def _check_same(folder: str, found: object, expected: object) -> None:
    if found != expected:
        raise UserError(
            f"task.reference: expected a decoder of the config task.denoise.model, {expected}, got {found} in {folder}"
        )
