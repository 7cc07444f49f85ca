"""The consistency decoder of DALL·E 3: latents to pixels in two steps (Betker et al. 2023).

A UNet denoises pixels next to the latents, which are normalised and repeated over the pixels that they cover. The
latents may be continuous, or the vectors of an image tokenizer's codes.

    B batch   h w latents   c latent width   H W pixels
"""

from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx

from dalle_jax.arrays import Array, Float, Int, Key
from dalle_jax.diffusion.consistency import sample_consistency
from dalle_jax.diffusion.levels import initial_noise
from dalle_jax.diffusion.noise_schedules import CosineNoise
from dalle_jax.diffusion.process import DiscreteProcess
from dalle_jax.diffusion.samplers.sampler import KeyedNoise, StepNoise
from dalle_jax.models.unet import UNet, UNetConfig

TIMESTEPS = (1008, 512)
"""The two timesteps of 1024 at which the published decoder was distilled."""


@dataclass(frozen=True)
class ConsistencyDecoderConfig:
    """The UNet, whose ``extra_channels`` are the latents and whose ``learned_times`` count the timesteps.

    A latent covers ``factor`` x ``factor`` pixels. It is normalised as ``(scale latent - mean) / std`` by channel.
    """

    unet: UNetConfig
    factor: int
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        widths = (self.unet.extra_channels, len(self.mean), len(self.std))
        if len(set(widths)) != 1 or self.unet.learned_times <= TIMESTEPS[0]:
            raise ValueError(
                f"unet.extra_channels, mean, std, unet.learned_times: expected one width and more than {TIMESTEPS[0]} "
                f"timesteps, got {widths} and {self.unet.learned_times}"
            )

    def build(self, rngs: nnx.Rngs) -> "ConsistencyDecoder":
        """Create the network with newly initialised weights."""
        return ConsistencyDecoder(self, rngs=rngs)


class ConsistencyDecoder(nnx.Module):
    """A UNet in pixels that reads latents."""

    def __init__(self, config: ConsistencyDecoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.unet = UNet(config.unet, rngs=rngs)

    def enlarged(self, latents: Float[Array, "B h w c"]) -> Float[Array, "B H W c"]:
        """Normalise the latents and repeat each over its pixels."""
        config = self.config
        normalised = (latents * config.scale - jnp.asarray(config.mean)) / jnp.asarray(config.std)
        return jnp.repeat(jnp.repeat(normalised, config.factor, axis=1), config.factor, axis=2)

    def sample(
        self, latents: Float[Array, "B h w c"], start: Float[Array, "B H W 3"], noise: StepNoise
    ) -> Float[Array, "B H W 3"]:
        """Decode to images of about -1 .. 1 in two steps from given noise."""
        extra, channels = self.enlarged(latents), self.config.unet.channels
        process = DiscreteProcess.of(CosineNoise(self.config.unet.learned_times))

        def predict(x: Array, time: Array) -> Array:
            return self.unet(x, time, extra=extra)[..., :channels]

        return sample_consistency(predict, process, TIMESTEPS, start, noise)

    def decode(self, latents: Float[Array, "B h w c"], keys: Key[Array, " B"]) -> Float[Array, "B H W 3"]:
        """Decode to images in 0 .. 1; the noise of an image depends on its key alone."""
        height, width, factor = *latents.shape[1:3], self.config.factor
        start = initial_noise(keys, (height * factor, width * factor, self.config.unet.channels))
        return ((self.sample(latents, start, KeyedNoise(keys)) + 1) / 2).clip(0, 1)

    def decode_codes(
        self, codes: Int[Array, "B h w"], vectors: Float[Array, "K c"], keys: Key[Array, " B"]
    ) -> Float[Array, "B H W 3"]:
        """Decode codes of an image tokenizer, whose ``vectors`` are the latents that the UNet was trained on."""
        return self.decode(vectors[codes], keys)
