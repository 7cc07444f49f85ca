"""The best candidates of a prompt so far, on the devices.

P rows of a block   M candidates of a row   k images to keep
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, UInt8

ABSENT = -jnp.inf
"""The order of a place without a candidate. NaN comes before it, and after all other scores."""


class FetchedBest(NamedTuple):
    """The best candidates after each row of a block, on the host."""

    candidates: Int[np.ndarray, "P k"]
    images: UInt8[np.ndarray, "P k H W 3"]


class RunningBest(NamedTuple):
    """The best candidates, best first: order, number within the prompt, and image."""

    order: Float[Array, "*P k"]
    candidates: Int[Array, "*P k"]
    images: UInt8[Array, "*P k H W 3"]

    def fetch(self) -> "FetchedBest":
        """Copy numbers and images to the host."""
        return FetchedBest(np.asarray(self.candidates), np.asarray(self.images))

    @classmethod
    def none(cls, keep: int, image: tuple[int, ...]) -> "RunningBest":
        """Return ``keep`` places without candidates, for images of a shape."""
        return cls(
            jnp.full(keep, ABSENT, jnp.float32), jnp.zeros(keep, jnp.int32), jnp.zeros((keep, *image), jnp.uint8)
        )


def keep_best(
    before: RunningBest,
    images: UInt8[Array, "P M H W 3"],
    scores: Float[Array, "P M"],
    first: Int[Array, " P"],
    count: Int[Array, " P"],
) -> tuple[RunningBest, RunningBest]:
    """Add the rows of a block, and return the best of the last row's prompt, and those after each row.

    A row has candidates ``first`` to ``first + count - 1`` of its prompt, and goes on from the row before it unless
    ``first`` is 0. Of equal scores the smaller candidate comes first, and NaN last, as in ``best_candidates``.
    """
    keep, size = before.order.shape[0], scores.shape[1]
    lowest = jnp.finfo(scores.dtype).min

    def add(best: RunningBest, row: tuple[Array, Array, Array, Array]) -> tuple[RunningBest, RunningBest]:
        images, scores, first, count = row
        places = jnp.arange(size)
        order = jnp.where(places < count, jnp.where(jnp.isnan(scores), lowest, scores), ABSENT)
        earlier = jnp.where(first == 0, ABSENT, best.order)
        order, chosen = jax.lax.top_k(jnp.concatenate([earlier, order]), keep)  # of equals the first comes first
        numbers = jnp.concatenate([best.candidates, first + places])
        after = RunningBest(order, numbers[chosen], jnp.concatenate([best.images, images])[chosen])
        return after, after

    return jax.lax.scan(add, before, (images, scores, first, count))
