import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dalle_jax.images.clip_pixels import clip_pixels
from dalle_jax.images.clip_pixels_device import clip_pixels_device

SIZES = [(256, 256, 224), (32, 32, 24), (24, 24, 32), (40, 57, 32), (61, 40, 32), (32, 45, 32), (200, 333, 31)]


@pytest.mark.parametrize("convention", ["openai", "hugging_face"])
@pytest.mark.parametrize(("height", "width", "size"), SIZES)
def test_images_are_resized_to_the_values_of_pillow_bit_for_bit(height, width, size, convention):
    rng = np.random.default_rng(height)
    noise = rng.integers(0, 256, (1, height, width, 3), np.uint8)
    blocks = np.where(rng.random((1, height, width, 1)) < 0.5, 0, 255) * np.ones(3)  # overshoots on both sides
    images = np.concatenate([noise, blocks.astype(np.uint8)])
    expected = [clip_pixels(Image.fromarray(one), size, convention) for one in images]
    np.testing.assert_array_equal(clip_pixels_device(jnp.asarray(images), size, convention), expected)
