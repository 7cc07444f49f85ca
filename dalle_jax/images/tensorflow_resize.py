"""Bilinear resizing as TensorFlow 1 does it, on the devices: FID's InceptionV3 was always fed with it.

Output pixel i is at i * (input size / output size), without the shift of half a pixel that other programs have. It
weighs the two nearest input pixels, also where the image shrinks, so fine detail aliases
(tensorflow/core/kernels/image_resizer_state.h, with align_corners false).
"""

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, UInt8


def resize_like_tensorflow1(images: UInt8[Array, "B H W 3"], size: int) -> Float[Array, "B S S 3"]:
    """Return images of ``size`` pixels a side with values in 0..255; the aspect ratio may change.

    Columns come before rows, so that every product is rounded as in torch-fidelity.
    """
    values = images.astype(jnp.float32)
    for axis in (2, 1):
        place = np.arange(size, dtype=np.float32) * np.float32(images.shape[axis] / size)
        low = place.astype(np.int64)
        high = np.minimum(low + 1, images.shape[axis] - 1)
        weight = np.expand_dims(place - low.astype(np.float32), (1, 2) if axis == 1 else 1)  # [S 1 1] or [S 1]
        lower = jnp.take(values, low, axis=axis)
        values = lower + (jnp.take(values, high, axis=axis) - lower) * weight
    return values
