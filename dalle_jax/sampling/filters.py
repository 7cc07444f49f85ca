"""Temperature, top-k and top-p filtering of logits, with a traced value per prompt.

Thresholds are found exactly, by bisection over the bits of a float. On a CPU, sorting the codebook would cost more than
the rest of a step. k and p are traced values, so that a request with different values needs no compilation.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.parallel.layout import platform

EXCLUDED_LOGIT = -1e30
"""The logit of an excluded code."""


def _sortable_bits(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """Map floats to int32 values that have the same order."""
    bits = jax.lax.bitcast_convert_type(x + 0.0, jnp.int32)
    return jnp.where(bits < 0, jnp.int32(-(2**31)) - bits, bits)


def _bisect(accepts: Callable[[Array], Array], shape: tuple[int, ...]) -> Int[Array, "..."]:
    """Find the smallest int32 for which ``accepts`` is True, for each element.

    ``accepts`` must be False below some value and True from it on.
    """

    def halve(_: Array, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds  # the answer is in (low, high]
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
        accepted = accepts(middle)
        return jnp.where(accepted, low, middle), jnp.where(accepted, middle, high)

    low = jnp.full(shape, -(2**31), jnp.int32)
    high = jnp.full(shape, 2**31 - 1, jnp.int32)
    return jax.lax.fori_loop(0, 32, halve, (low, high))[1]


def top_k(logits: Float[Array, "P M K"], k: Int[Array, " P"]) -> Float[Array, "P M K"]:
    """Exclude all but the ``k`` largest logits; 0 excludes none.

    Logits equal to the k-th largest are all kept.
    """
    order, wanted = _sortable_bits(logits), k[:, None, None]
    threshold = _bisect(
        lambda t: (order > t).sum(axis=-1, keepdims=True) < jnp.maximum(wanted, 1), (*logits.shape[:2], 1)
    )
    return jnp.where((order >= threshold) | (wanted <= 0), logits, EXCLUDED_LOGIT)


def top_p(logits: Float[Array, "P M K"], p: Float[Array, " P"]) -> Float[Array, "P M K"]:
    """Keep the nucleus of probability mass ``p`` (Holtzman et al. 2020, arXiv 1904.09751); 1 excludes none.

    A code is excluded if the more likely codes have a total probability of ``p`` or more. The most likely code always
    stays, so p = 0 is greedy.
    """
    probabilities = jax.nn.softmax(logits, axis=-1)
    order, wanted = _sortable_bits(probabilities), p[:, None, None]
    threshold = _bisect(
        lambda t: jnp.where(order > t, probabilities, 0.0).sum(axis=-1, keepdims=True) < jnp.maximum(wanted, 1e-9),
        (*logits.shape[:2], 1),
    )
    return jnp.where((order >= threshold) | (wanted >= 1), logits, EXCLUDED_LOGIT)


def restrict(
    logits: Float[Array, "P M K"], temperature: Float[Array, " P"], k: Int[Array, " P"], p: Float[Array, " P"]
) -> Float[Array, "P M K"]:
    """Divide logits by the temperature, then apply top-k, then top-p. A filter that no prompt uses takes no time.

    At temperature 0 the logits are not divided; the caller then takes the largest logit and adds no noise.
    """
    cold = temperature <= 0
    scaled = logits / jnp.where(cold, 1.0, temperature)[:, None, None]
    scaled = jax.lax.cond(jnp.any(k > 0), top_k, lambda x, _: x, scaled, k)
    return jax.lax.cond(jnp.any(p < 1), top_p, lambda x, _: x, scaled, p)


def first_largest(x: Float[Array, "... K"]) -> Int[Array, "..."]:
    """Return the index of the largest value, the first one of equal values, as ``argmax`` does.

    XLA on a CPU does not vectorise argmax; its top-k of one takes a third of the time (docs/sampling.md).
    """
    if platform() != "cpu":
        return jnp.argmax(x, axis=-1).astype(jnp.int32)
    return jax.lax.top_k(x + 0.0, 1)[1][..., 0]  # the sum makes -0 equal 0
