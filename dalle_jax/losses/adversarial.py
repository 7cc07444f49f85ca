"""Adversarial and perceptual losses of a VQGAN (Esser et al. 2021, arXiv 2012.09841, section 3.1)."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def hinge_loss(real: Float[Array, "..."], fake: Float[Array, "..."]) -> Float[Array, ""]:
    """Compute the discriminator's hinge loss, which is 0 if real logits are >= 1 and fake logits <= -1."""
    return 0.5 * (jax.nn.relu(1.0 - real).mean() + jax.nn.relu(1.0 + fake).mean())


def adaptive_weight(
    reconstruction_gradient: Float[Array, "..."], adversarial_gradient: Float[Array, "..."]
) -> Float[Array, ""]:
    """Compute the weight of the generator's adversarial loss (equation 7), between 0 and 10,000.

    It is the norm of the reconstruction loss's gradient divided by the norm of the adversarial loss's gradient. Both
    gradients are with respect to the decoder's last layer.
    """
    norms = [
        jnp.sqrt(jnp.square(one.astype(jnp.float32)).sum()) for one in (reconstruction_gradient, adversarial_gradient)
    ]
    return (norms[0] / (norms[1] + 1e-4)).clip(0.0, 1e4)


def pyramid_distance(one: Float[Array, "B H W C"], other: Float[Array, "B H W C"], levels: int) -> Float[Array, " B"]:
    """Compute a perceptual distance without trained weights, which is our own substitute for LPIPS.

    It compares image gradients at ``levels`` scales, each half the size of the one before. At each scale it sums the
    mean absolute horizontal and vertical differences of the error image ``one - other``. The result is the mean over
    scales, which penalises missing edges and tolerates shifts of brightness.
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
