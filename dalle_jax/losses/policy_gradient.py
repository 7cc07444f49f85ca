"""Policy gradients over the codes of sampled images: group advantages, clipped ratios, and the KL to a start (GRPO)."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int

SMALLEST_SPREAD = 1e-6
"""The standard deviation of a group's rewards up to which they count as equal."""


class PolicyTerms(NamedTuple):
    """The policy at each code of an image, in nats.

    - ``log_prob``: log p(code) of the sampled code.
    - ``entropy``: that of the policy, and ``reference_entropy`` that of the model from which training starts.
    - ``kl``: KL(policy || reference) over the codebook, not an estimate from the sampled code.
    - ``kl_infinite``: 1.0 where the reference gives probability 0 to a code that the policy may draw, and 0.0
      elsewhere. ``kl`` leaves such codes out.
    """

    log_prob: Float[Array, "B I"]
    entropy: Float[Array, "B I"]
    reference_entropy: Float[Array, "B I"]
    kl: Float[Array, "B I"]
    kl_infinite: Float[Array, "B I"]


def group_advantages(rewards: Float[np.ndarray, "P M"]) -> Float[np.ndarray, "P M"]:
    """Normalise the rewards of each prompt's M samples (GRPO; Shao et al. 2024, arXiv 2402.03300, section 4.1.2).

    An advantage is (reward - mean) / standard deviation. A group of equal rewards has advantages 0.
    """
    spread = rewards.std(axis=1, keepdims=True)
    centred = rewards - rewards.mean(axis=1, keepdims=True)
    return np.where(spread > SMALLEST_SPREAD, centred / np.maximum(spread, SMALLEST_SPREAD), 0.0)


def widest_groups(rewards: Float[np.ndarray, "P M"], count: int) -> Int[np.ndarray, " count"]:
    """Return the indices of the ``count`` groups with the largest standard deviation of rewards, in their order.

    Of equal spreads the smaller index is taken, so the choice is the same on every machine.
    """
    spread = np.round(rewards.std(axis=1), 6)
    return np.sort(np.argsort(-spread, kind="stable")[:count])


def policy_terms(
    logits: Float[Array, "B I K"], reference_logits: Float[Array, "B I K"], codes: Int[Array, "B I"]
) -> PolicyTerms:
    """Compute log-probabilities, entropies and the exact KL from the logits of both models, in float32."""
    log_p = jax.nn.log_softmax(logits.astype(jnp.float32))
    log_q = jax.nn.log_softmax(jax.lax.stop_gradient(reference_logits).astype(jnp.float32))
    possible, allowed = jnp.isfinite(log_p), jnp.isfinite(log_q)
    p = jnp.where(possible, jnp.exp(log_p), 0.0)
    log_p, log_q = jnp.where(possible, log_p, 0.0), jnp.where(allowed, log_q, 0.0)
    return PolicyTerms(
        log_prob=jnp.take_along_axis(log_p, codes[..., None], axis=-1)[..., 0],
        entropy=-jnp.sum(p * log_p, axis=-1),
        reference_entropy=-jnp.sum(jnp.where(allowed, jnp.exp(log_q) * log_q, 0.0), axis=-1),
        kl=jnp.sum(jnp.where(allowed, p * (log_p - log_q), 0.0), axis=-1),
        kl_infinite=jnp.any(~allowed & (p > 0), axis=-1).astype(jnp.float32),
    )


def policy_terms_in_parts(
    logits: Callable[[Float[Array, "B l ..."]], Float[Array, "B l K"]],
    outputs: Float[Array, "B I ..."],
    reference_logits: Callable[[Float[Array, "B l ..."]], Float[Array, "B l K"]],
    reference_outputs: Float[Array, "B I ..."],
    codes: Int[Array, "B I"],
    parts: int,
) -> PolicyTerms:
    """Compute ``policy_terms`` of both models' outputs in ``parts`` ranges of positions, one after the other.

    The backward pass computes the logits of a range again, so those of a single range are in memory.
    """

    def of_range(own: Array, other: Array, codes: Array) -> PolicyTerms:
        return policy_terms(logits(own), reference_logits(other), codes)

    arrays = (outputs, jax.lax.stop_gradient(reference_outputs), codes)
    if parts == 1:
        return of_range(*arrays)
    rows, length = codes.shape
    ranges = tuple(one.reshape(rows, parts, length // parts, *one.shape[2:]).swapaxes(0, 1) for one in arrays)
    found = jax.lax.map(lambda one: jax.checkpoint(of_range)(*one), ranges)  # [parts B l]
    return PolicyTerms(*(one.swapaxes(0, 1).reshape(rows, length) for one in found))


def clipped_policy_loss(
    log_prob: Float[Array, "B I"], old_log_prob: Float[Array, "B I"], advantages: Float[Array, " B"], clip: float
) -> tuple[Float[Array, "B I"], Float[Array, "B I"]]:
    """Compute PPO's clipped loss of each code, and 1.0 where the clipping stops its gradient.

    The loss is ``-min(r A, clip(r, 1 - c, 1 + c) A)`` with the ratio r = p(code) / p_old(code) (Schulman et al. 2017,
    arXiv 1707.06347, equation 7).
    """
    ratio, advantage = jnp.exp(log_prob - old_log_prob), advantages[:, None]
    bounded = jnp.clip(ratio, 1.0 - clip, 1.0 + clip)
    stopped = ratio * advantage > bounded * advantage
    return -jnp.minimum(ratio * advantage, bounded * advantage), stopped.astype(jnp.float32)
