"""Attention as one masked product over all pairs: softmax(q k / sqrt(H)) v."""

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float

FAR_BELOW = -1e30
"""What a masked score becomes: finite, so that a row with no visible key gives the mean and not NaN."""


def dense_attention(
    q: Float[Array, "B N L H"],
    k: Float[Array, "B N S H"],
    v: Float[Array, "B N S H"],
    mask: Bool[Array, "#B 1 #L S"] | None = None,
) -> Float[Array, "B N L H"]:
    """Attention over all pairs; ``mask`` is True where a query (row) sees a key (column). Softmax in float32."""
    scores = jnp.einsum("bnlh,bnsh->bnls", q, k, preferred_element_type=jnp.float32) * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask, scores, FAR_BELOW)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)  # [B N L S]
    return jnp.einsum("bnls,bnsh->bnlh", weights, v)
