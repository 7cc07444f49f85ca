"""A pixel decoder and an upsampler of the smallest sizes, with weights that are not zero anywhere."""

import dataclasses
from typing import TypeVar

import jax
from flax import nnx

from dalle_jax.models.clip import TowerConfig
from dalle_jax.models.decoders.pixel_decoder import PixelDecoderConfig
from dalle_jax.models.decoders.upsampler import UpsamplerConfig
from dalle_jax.models.unet import UNetConfig

UNET = UNetConfig(32, (1,), 1, attention_levels=(0,), head_size=16, context_width=8)
UPSAMPLER = UpsamplerConfig(unet=UNetConfig(32, (1,), 1, extra_channels=3, learned_variance=False), factor=2)
Module = TypeVar("Module", bound=nnx.Module)


def decoder_config(
    vocab_size: int = 9, embed_width: int = 6, image_size: int = 8, learned_variance: bool = False
) -> PixelDecoderConfig:
    return PixelDecoderConfig(
        unet=dataclasses.replace(UNET, learned_variance=learned_variance), vocab_size=vocab_size, text_length=6,
        text=TowerConfig(width=8, layers=1, heads=2), image_size=image_size, embed_width=embed_width,
    )  # fmt: skip


def perturbed(module: Module) -> Module:
    """Add noise to all parameters, since the last layers start at zero."""
    graph, params, rest = nnx.split(module, nnx.Param, ...)
    noisy = jax.tree.map(lambda x: x + 0.05 * jax.random.normal(jax.random.key(x.size), x.shape), params)
    return nnx.merge(graph, noisy, rest)
