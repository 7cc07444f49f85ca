"""A distance between pictures that needs no trained weights, in place of LPIPS where there are none. It is ours."""

import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def pyramid_distance(one: Float[Array, "B H W C"], other: Float[Array, "B H W C"], levels: int) -> Float[Array, " B"]:
    """The mean over ``levels`` sizes, each half of the one before, of how much the differences of neighbours differ.

    At each size the mean of |difference| over all pairs of pixels that stand side by side or one above the other: edges
    count, and where they are matters the less the smaller the picture has become.
    """
    x = one - other  # [B H W C]
    total = jnp.zeros(x.shape[0])
    for level in range(levels):
        if level:
            batch, height, width, channels = x.shape
            x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))
        across = jnp.abs(x[:, :, 1:] - x[:, :, :-1]).mean(axis=(1, 2, 3))
        down = jnp.abs(x[:, 1:] - x[:, :-1]).mean(axis=(1, 2, 3))
        total = total + (across + down) / levels
    return total
