"""Direct preference optimisation: fine-tuning on pairs of images, of which one is preferred (DPO, arXiv 2305.18290)."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float


def preference_loss(preferred: Float[Array, " B"], rejected: Float[Array, " B"], *, beta: float) -> Float[Array, " B"]:
    """Compute the loss of DPO for each pair, in float32 (Rafailov et al. 2023, arXiv 2305.18290, equation 7).

    For the preferred image w and the rejected image l of a prompt it is ``-log sigmoid(beta (r(w) - r(l)))``, with
    ``r(x) = log p(x) - log p_0(x)`` of the trained model p and the frozen model p_0 from which it starts.

    - ``preferred``, ``rejected``: r(w) and r(l) in nats, summed over the codes of an image.
    - ``beta``: the weight of the KL to p_0 in the reward that the loss optimises.
    """
    gap = preferred.astype(jnp.float32) - rejected.astype(jnp.float32)
    return -jax.nn.log_sigmoid(beta * gap)
