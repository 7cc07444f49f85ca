import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.images.pixels import centre_square, resize, to_float, to_uint8


def noise(height=8, width=6, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def test_centre_square_takes_the_middle():
    pixels = noise(4, 10)
    np.testing.assert_array_equal(centre_square(pixels, 4), pixels[:, 3:7])
    np.testing.assert_array_equal(centre_square(noise(10, 4), 4), noise(10, 4)[3:7])
    assert centre_square(noise(9, 13), 5).shape == (5, 5, 3)


def test_resizing_keeps_a_flat_colour():
    flat = np.full((7, 9, 3), 77, np.uint8)
    np.testing.assert_array_equal(resize(flat, 3, 20), np.full((3, 20, 3), 77))


def test_pixels_become_floats_and_return_in_numpy_jax_and_jit():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_float(every)), every)
    assert to_float(every).dtype == np.float32
    both = jax.jit(lambda x: to_uint8(to_float(x)))(jnp.asarray(every))
    assert isinstance(both, jax.Array)
    np.testing.assert_array_equal(both, every)
    np.testing.assert_array_equal(to_uint8(np.array([-1.0, 0.5, 2.0], np.float32)), [0, 128, 255])
