"""The pixel decoder with a patch transformer in the UNet's place."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.models.code_denoiser import Guide
from dalle_jax.models.patch_denoisers.patch_transformer import PatchTransformer, PatchTransformerConfig
from tests.small_denoisers import decoder_config, random_module

CONFIG = dataclasses.replace(
    decoder_config(), unet=PatchTransformerConfig(width=16, layers=1, heads=2, patch=4, context_width=8)
)


def test_a_patch_transformer_reads_the_embedding_and_the_caption_as_the_unet_does():
    decoder = random_module(lambda: CONFIG.build(nnx.Rngs(0)))
    assert isinstance(decoder.unet, PatchTransformer)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))
    level = NoiseLevel(jnp.array([100.0, 700.0]), jnp.array([0.9, 0.3]), jnp.array([0.1, 0.7]))
    guide = Guide(
        jnp.array([[1, 2, 0, 0, 0, 0], [3, 0, 0, 0, 0, 0]]),
        jax.random.normal(jax.random.key(2), (2, 6)),
        jnp.ones(2, bool),
    )
    run = nnx.jit(lambda decoder, guide: decoder(x, level, guide).prediction)
    plain = run(decoder, guide)
    assert plain.shape == x.shape
    for change in (
        guide._replace(text=guide.text.at[0, 1].set(5)),
        guide._replace(clip=guide.clip.at[0].multiply(-1.0)),
        guide._replace(has_clip=guide.has_clip.at[0].set(False)),
    ):
        found = run(decoder, change)
        assert np.abs(found[0] - plain[0]).max() > 1e-4
        np.testing.assert_allclose(found[1], plain[1], atol=1e-5)


def test_an_image_size_that_the_patch_does_not_divide_is_an_error():
    with pytest.raises(ValueError, match="image_size: expected a multiple of 4, the UNet's or the patch's, got 6"):
        dataclasses.replace(CONFIG, image_size=6)
