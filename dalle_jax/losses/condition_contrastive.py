"""Condition contrastive alignment: fine-tuning after which sampling needs no guidance (CCA, arXiv 2410.09347)."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float


def condition_contrastive(
    matched: Float[Array, " B"],
    mismatched: Float[Array, " B"],
    is_negative: Bool[Array, " B"],
    *,
    beta: float,
    negative_weight: float,
) -> Float[Array, ""]:
    """Compute the loss of CCA (Chen et al. 2024, arXiv 2410.09347; `thu-ml/CCA`, LlamaGen_finetune.py), in float32.

    For an image x, its condition c and another image's condition c' it is::

        -log sigmoid(beta r(x, c)) - lambda log sigmoid(-beta r(x, c')),  r(x, c) = log p(x | c) - log p_0(x | c)

    with the trained model p and the frozen model p_0 from which it starts.

    - ``matched``, ``mismatched``: r(x, c) and r(x, c') in nats, summed over the codes of an image.
    - ``is_negative``: False if c' equals c or is empty. As in the authors' code, such a row counts as a match of weight
      1, which keeps p(x) without a condition.
    - ``negative_weight``: lambda. The mean is divided by max(lambda, 1), also as in the authors' code.
    """
    matched, mismatched = matched.astype(jnp.float32), mismatched.astype(jnp.float32)
    sign = jnp.where(is_negative, -1.0, 1.0)
    weight = jnp.where(is_negative, negative_weight, 1.0)
    each = jax.nn.log_sigmoid(beta * matched) + weight * jax.nn.log_sigmoid(beta * sign * mismatched)  # [B]
    return -each.mean() / max(negative_weight, 1.0)
