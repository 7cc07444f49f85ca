"""Denoising in tiles: the whole image's, if the network sees few pixels, and without a seam if it sees more."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dalle_jax.diffusion.levels import NoiseLevel
from dalle_jax.diffusion.parameterization import ModelOutput
from dalle_jax.diffusion.tiles import Tiles, tiled
from dalle_jax.diffusion.trained_diffusion import ImageSampling, TrainedDiffusion

KERNEL = jax.random.normal(jax.random.key(0), (5, 5, 6, 6)) / 12
LEVEL = NoiseLevel(jnp.zeros(2), jnp.full(2, 0.6), jnp.full(2, 0.8))
X = jax.random.normal(jax.random.key(1), (2, 20, 27, 3))
IMAGE = jax.random.normal(jax.random.key(2), (2, 20, 27, 3))
TILES = Tiles(side=16, overlap=8)


def local(x, level, image):
    """See 2 pixels around a pixel; predict a variance too."""
    both = jnp.concatenate([x, image], axis=-1)
    out = jax.lax.conv_general_dilated(both, KERNEL, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    return ModelOutput(*jnp.split(out, 2, axis=-1))


def with_mean(x, level, image):
    """See the whole tile through its mean, as a group norm does."""
    return ModelOutput(local(x, level, image).prediction + x.mean(axis=(1, 2), keepdims=True))


def test_tiles_equal_the_whole_if_the_network_sees_less_than_a_quarter_of_the_overlap():
    whole, found = local(X, LEVEL, IMAGE), tiled(local, IMAGE, TILES)(X, LEVEL)
    np.testing.assert_allclose(found.prediction, whole.prediction, atol=2e-6)
    np.testing.assert_allclose(found.variance, whole.variance, atol=2e-6)
    unused = tiled(local, IMAGE, Tiles(side=16, overlap=4))(X, LEVEL)  # a quarter of it is 1 pixel, the network sees 2
    assert np.abs(unused.prediction - whole.prediction).max() > 1e-3


def test_a_small_image_is_one_tile():
    small = X[:, :8, :12], IMAGE[:, :8, :12]
    np.testing.assert_allclose(
        tiled(with_mean, small[1], TILES)(small[0], LEVEL).prediction,
        with_mean(small[0], LEVEL, small[1]).prediction,
        atol=1e-6,
    )


def test_the_weights_of_all_tiles_cover_every_pixel():
    for size in (16, 17, 24, 40, 41):
        total = np.zeros(size)
        for start in TILES.starts(size):
            total[start : start + 16] += TILES.weights(size, start)
        assert total.min() > 0.1


def test_a_sample_in_tiles_has_no_seam():
    """Steps between neighbouring columns at a tile's edge are no larger than elsewhere."""
    diffusion, keys = TrainedDiffusion(), jax.random.split(jax.random.key(3), 4)
    image = jnp.broadcast_to(jnp.linspace(-0.6, 0.6, 40)[:, None], (4, 24, 40, 3))

    def toward_image(x, level, part):
        """Predict the noise of x0 = part, off by a constant of each tile."""
        alpha, sigma = level.alpha[0], level.sigma[0]
        return ModelOutput((x - alpha * (part + 0.1 * jnp.sign(part.mean()))) / sigma)

    x = ImageSampling(steps=8).sample(tiled(toward_image, image, TILES), diffusion, keys, (24, 40, 3))
    steps = np.abs(np.diff(np.asarray(x), axis=2)).max(axis=(0, 1, 3))
    inside = 1.2 / 39
    assert steps.max() < inside + 0.2 / 4 + 1e-3  # the offset of 0.2 fades over half of the overlap, 4 pixels
    assert np.abs(np.asarray(x)[:, :, -1] - 0.7).max() < 1e-2


def test_an_overlap_that_tiles_cannot_have_is_refused():
    for side, overlap in ((16, 6), (12, 8), (16, 0)):
        with pytest.raises(ValueError, match=f"a positive multiple of 4, and at least twice it, got {overlap}"):
            Tiles(side, overlap)
