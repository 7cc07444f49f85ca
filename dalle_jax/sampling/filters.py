"""Which codes may be drawn: temperature, top-k and top-p, each a traced value per prompt.

Thresholds are found by bisection over the bits of a float, exactly and without sorting: a sort of the codebook costs
more than the rest of a step on a CPU, and k and p stay ordinary array values, so no request compiles anything.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int

EXCLUDED_LOGIT = -1e30
"""What the logit of an excluded code becomes."""


def _order(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """Int32 in the order of the floats: equal for equal, larger for larger."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.int32)
    return jnp.where(bits < 0, jnp.int32(-(2**31)) - bits, bits)


def _smallest(accepts: Callable[[Array], Array], shape: tuple[int, ...]) -> Int[Array, "..."]:
    """The smallest int32 that ``accepts`` (false, then true, as the argument grows), each element on its own."""

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # the answer is in (low, high]
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        accepted = accepts(middle)
        return jnp.where(accepted, low, middle), jnp.where(accepted, middle, high)

    low = jnp.full(shape, -(2**31), jnp.int32)
    high = jnp.full(shape, 2**31 - 1, jnp.int32)
    return jax.lax.fori_loop(0, 32, halve, (low, high))[1]


def top_k(logits: Float[Array, "P M K"], k: Int[Array, " P"]) -> Float[Array, "P M K"]:
    """Excludes all but the ``k`` largest logits (and those equal to the smallest of them); 0 excludes none."""
    order, wanted = _order(logits), k[:, None, None]
    threshold = _smallest(
        lambda t: (order > t).sum(axis=-1, keepdims=True) < jnp.maximum(wanted, 1), (*logits.shape[:2], 1)
    )
    return jnp.where((order >= threshold) | (wanted <= 0), logits, EXCLUDED_LOGIT)


def top_p(logits: Float[Array, "P M K"], p: Float[Array, " P"]) -> Float[Array, "P M K"]:
    """Excludes every code that more likely codes outweigh by a mass of ``p`` or more; 1 excludes none.

    The likeliest code is always kept, so p = 0 is greedy (the nucleus of Holtzman et al. 2020, arXiv 1904.09751).
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    order, wanted = _order(probabilities), p[:, None, None]
    threshold = _smallest(
        lambda t: jnp.where(order > t, probabilities, 0.0).sum(axis=-1, keepdims=True) < jnp.maximum(wanted, 1e-9),
        (*logits.shape[:2], 1),
    )
    return jnp.where((order >= threshold) | (wanted >= 1), logits, EXCLUDED_LOGIT)


def restrict(
    logits: Float[Array, "P M K"], temperature: Float[Array, " P"], k: Int[Array, " P"], p: Float[Array, " P"]
) -> Float[Array, "P M K"]:
    """Logits divided by the temperature, then top-k, then top-p of what is left; a filter no prompt uses costs nothing.

    At temperature 0 the logits come back undivided: the caller adds no noise then and takes the largest.
    """
    cold = temperature <= 0
    scaled = logits / jnp.where(cold, 1.0, temperature)[:, None, None]
    scaled = jax.lax.cond(jnp.any(k > 0), top_k, lambda x, _: x, scaled, k)
    return jax.lax.cond(jnp.any(p < 1), top_p, lambda x, _: x, scaled, p)
