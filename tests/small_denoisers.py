"""A pixel decoder and an upsampler of the smallest sizes, with weights that are not zero anywhere."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
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


def random_module(make: Callable[[], Module]) -> Module:
    """Return the module that ``make`` creates, with random weights: the last layers start at zero otherwise.

    numpy draws them, since an initialisation by jax compiles many programs.
    """
    graph, state = nnx.split(nnx.eval_shape(make))
    rng = np.random.default_rng(0)

    def value(path: tuple[object, ...], leaf: jax.ShapeDtypeStruct) -> jax.Array:
        spread = 0.05 if len(leaf.shape) < 2 else (leaf.size // leaf.shape[-1]) ** -0.5
        centre = 1.0 if "scale" in jax.tree_util.keystr(path) else 0.0
        return jnp.asarray(centre + spread * rng.standard_normal(leaf.shape), leaf.dtype)

    return nnx.merge(graph, jax.tree_util.tree_map_with_path(value, state))
