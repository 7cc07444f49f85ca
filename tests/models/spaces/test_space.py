"""Spaces of diffusion: pixels, and the normalised latents of every kind of image tokenizer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from dalle_jax.models.dvae import DvaeConfig
from dalle_jax.models.spaces.space import LatentMoments, LatentSpace, LatentStatistics, PixelSpace, Space
from dalle_jax.models.vqgan import VqganConfig
from dalle_jax.models.vqvae import VqvaeConfig

VQGAN = {"width": 32, "multipliers": (1, 1), "blocks": 1, "attention_levels": (), "latent_width": 8, "code_width": 4}
TOKENIZERS = {
    "vqvae": VqvaeConfig(downsample=2, width=8, blocks=1, codebook_size=16, code_width=4, stem="patch"),
    "vqgan": VqganConfig(**VQGAN, codebook_size=16, distance="cosine"),
    "dvae": DvaeConfig(width=8, codebook_size=8, code_width=4, groups=2, blocks=1),
}
PIXELS = jax.random.uniform(jax.random.key(1), (6, 4, 8, 3))


def measured(latents: jax.Array, images: int = 100) -> LatentStatistics:
    """Return the statistics of latents, in batches of 2 and then of the rest."""
    statistics = LatentStatistics(latents.shape[-1], images)
    for part in (latents[:2], latents[2:]):
        statistics.add(LatentMoments.of(part))
    return statistics


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_latents_of_every_tokenizer_are_normalised_and_decoded(kind):
    @nnx.jit
    def run():
        tokenizer = TOKENIZERS[kind].build(nnx.Rngs(0))
        latents, codes = tokenizer.encode_latents(PIXELS), tokenizer.encode(PIXELS)
        space = LatentSpace(tokenizer, measured(latents))
        assert isinstance(space, Space) and latents.shape[1:] == space.shape(4, 8)
        of_codes = tokenizer.decode(codes), tokenizer.decode_latents(tokenizer.code_vectors[codes])
        x0 = space.encode(PIXELS)
        return x0, space.decode(x0), tokenizer.decode_latents(latents), of_codes

    x0, decoded, of_latents, (of_codes, of_vectors) = run()
    np.testing.assert_allclose(x0.mean((0, 1, 2)), 0.0, atol=1e-3)
    np.testing.assert_allclose(x0.std((0, 1, 2)), 1.0, atol=1e-2)
    np.testing.assert_allclose(decoded, of_latents, atol=1e-4)
    np.testing.assert_allclose(of_vectors, of_codes, atol=1e-5)
    if kind != "dvae":  # which has no quantizer, but a distribution over codes
        np.testing.assert_allclose(of_latents, of_codes, atol=1e-5)


def test_statistics_are_those_of_the_first_images_and_stay():
    latents = jax.random.normal(jax.random.key(3), (10, 2, 3, 4)) * jnp.arange(1.0, 5.0) + jnp.arange(4.0)
    statistics = measured(latents[:6], images=5)
    np.testing.assert_allclose(statistics.mean[...], latents[:6].mean((0, 1, 2)), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(statistics.deviation, latents[:6].std((0, 1, 2)), rtol=1e-5)
    before = statistics.mean[...], statistics.deviation
    statistics.add(LatentMoments.of(100 + latents))
    np.testing.assert_array_equal((statistics.mean[...], statistics.deviation), before)
    assert statistics.seen[...] == 6
    assert not jax.tree.leaves(nnx.state(statistics, nnx.Param))


def test_latents_are_not_changed_before_they_are_measured_and_constant_channels_stay_finite():
    statistics = LatentStatistics(3, 4)
    latents = jnp.ones((2, 1, 1, 3))
    np.testing.assert_array_equal(statistics.normalise(latents), latents)
    statistics.add(LatentMoments.of(latents))
    np.testing.assert_array_equal(statistics.normalise(latents), 0.0)


def test_pixels_are_mapped_to_minus_one_to_one_and_back():
    space = PixelSpace()
    assert isinstance(space, Space) and space.shape(4, 8) == (4, 8, 3)
    np.testing.assert_allclose(space.decode(space.encode(PIXELS)), PIXELS, atol=1e-6)
    np.testing.assert_array_equal(space.encode(jnp.array([0.0, 0.5, 1.0]).reshape(1, 1, 1, 3)).ravel(), [-1, 0, 1])
    np.testing.assert_array_equal(space.decode(jnp.full((1, 1, 1, 3), 1.5)), 1.0)


def test_a_size_that_the_grid_does_not_divide_is_an_error():
    tokenizer = nnx.jit(lambda: TOKENIZERS["vqvae"].build(nnx.Rngs(0)))()
    with pytest.raises(ValueError, match="expected height and width as multiples of 2, got 5 and 8"):
        LatentSpace(tokenizer, LatentStatistics(4, 1)).shape(5, 8)
    with pytest.raises(ValueError, match="images: expected at least 1"):
        LatentStatistics(4, 0)
