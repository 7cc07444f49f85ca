"""Corruption of low-resolution images: blur, JPEG beside Pillow's, and chance that each image has of its own."""

import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dalle_jax.images.degradation import BsrDegradation, GaussianBlur, blurred, jpeg

IMAGES = jax.random.uniform(jax.random.key(0), (4, 12, 10, 3), minval=-1.0)


def test_a_blur_is_the_convolution_with_its_gaussian():
    point = jnp.zeros((1, 7, 7, 3)).at[:, 3, 3].set(1.0)
    found = blurred(point, jnp.array([[0.6, 1.2]]), 3)[0, :, :, 0]
    rows, columns = (np.exp(-(np.arange(-1, 2) ** 2) / (2 * sigma**2)) for sigma in (0.6, 1.2))
    expected = np.outer(rows / rows.sum(), columns / columns.sum())
    np.testing.assert_allclose(found[2:5, 2:5], expected, atol=1e-6)
    np.testing.assert_allclose(found.sum(), 1.0, rtol=1e-6)
    np.testing.assert_allclose(blurred(jnp.ones((1, 5, 5, 3)), jnp.ones((1, 2)), 5), 1.0, rtol=1e-6)  # edges repeat


def test_the_stated_share_of_images_is_blurred():
    images = jnp.tile(IMAGES[:1], (400, 1, 1, 1))
    found = GaussianBlur(share=0.25).apply(images, jax.random.key(1))
    changed = np.abs(found - images).max(axis=(1, 2, 3)) > 0
    assert 0.18 < changed.mean() < 0.32
    np.testing.assert_allclose(found[changed], blurred(images, jnp.full((400, 2), 0.6), 3)[changed], atol=1e-6)


@pytest.mark.parametrize("quality", [30, 75])
def test_jpeg_of_a_grey_image_is_pillows(quality):
    grey = np.linspace(0, 255, 16 * 24).reshape(16, 24)[::-1].astype(np.uint8)
    grey = grey ^ (np.indices(grey.shape).sum(axis=0) % 5 * 8).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(grey).save(written, "JPEG", quality=quality)
    expected = np.asarray(Image.open(written), np.float32)
    image = jnp.asarray(grey / 127.5 - 1, jnp.float32)[None, :, :, None].repeat(3, axis=-1)
    found = (np.asarray(jpeg(image, jnp.array([float(quality)])))[0, :, :, 1] + 1) * 127.5
    assert np.abs(found - grey).mean() > 1.0
    # Libjpeg rounds coefficients, levels and its fast transform; level 0 is 128 there and 127.5 here.
    assert np.abs(found.clip(0, 255) - expected).mean() < 1.0


def test_jpeg_keeps_a_size_that_is_no_multiple_of_its_blocks():
    assert jpeg(IMAGES, jnp.full(4, 90.0)).shape == IMAGES.shape
    np.testing.assert_allclose(jpeg(IMAGES, jnp.full(4, 100.0)), IMAGES, atol=0.03)


def test_each_image_is_corrupted_by_its_own_chance():
    twins = jnp.tile(IMAGES[:1], (6, 1, 1, 1))
    found = np.asarray(BsrDegradation(share=1.0).apply(twins, jax.random.key(2)))
    assert all(np.abs(found[i] - found[0]).max() > 1e-3 for i in range(1, 6))
    assert np.abs(found - twins).mean() < 0.5
    np.testing.assert_array_equal(found, BsrDegradation(share=1.0).apply(twins, jax.random.key(2)))


def test_settings_out_of_range_are_refused():
    with pytest.raises(ValueError, match=r"expected an odd number, .* got 4, 0\.6 and 0\.5"):
        GaussianBlur(kernel=4)
    with pytest.raises(ValueError, match=r"1 to 94 and 0 to 1, got 1\.0, 0\.05, 95 and 0\.5"):
        BsrDegradation(quality=95)
