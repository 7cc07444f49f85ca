import jax.numpy as jnp
import numpy as np

from dalle_jax.images.tensorflow_resize import resize_like_tensorflow1


def one_row(*values):
    return np.tile(np.array(values, np.uint8)[None, None, :, None], (1, 2, 1, 3))


def test_output_pixels_are_at_multiples_of_the_scale_without_half_a_pixel():
    found = resize_like_tensorflow1(jnp.asarray(one_row(0, 100)), 4)
    np.testing.assert_allclose(found[0, 0, :, 0], [0, 50, 100, 100])  # places 0, 0.5, 1, 1.5; the last is at the border


def test_shrinking_takes_two_pixels_and_no_average():
    found = resize_like_tensorflow1(jnp.asarray(one_row(0, 10, 200, 40, 50, 60)), 4)  # places 0, 1.5, 3, 4.5
    np.testing.assert_allclose(found[0, 3, :, 2], [0, 105, 40, 55])
