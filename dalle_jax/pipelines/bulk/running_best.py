"""The best candidates of a prompt so far, on the devices.

D consecutive images of a job, in the order of its prompts   k images to keep
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Float, Int, UInt8

ABSENT = -jnp.inf
"""The order of a place without a candidate. NaN comes before it, and after all other scores."""


class RunningBest(NamedTuple):
    """The best candidates, best first: order, number within the prompt, and image."""

    order: Float[Array, " k"]
    candidates: Int[Array, " k"]
    images: UInt8[Array, "k H W 3"]

    @classmethod
    def none(cls, keep: int, image: tuple[int, ...]) -> "RunningBest":
        """Return ``keep`` places without candidates, for images of a shape."""
        return cls(
            jnp.full(keep, ABSENT, jnp.float32), jnp.zeros(keep, jnp.int32), jnp.zeros((keep, *image), jnp.uint8)
        )


class RankedRows(NamedTuple):
    """The best candidates of a prompt after each image: their numbers, and their places among all images.

    Places 0 to k - 1 are the best images before the D new ones, which follow them.
    """

    candidates: Int[Array, "D k"]
    places: Int[Array, "D k"]


def keep_best(
    before: RunningBest,
    images: UInt8[Array, "D H W 3"],
    scores: Float[Array, " D"],
    candidates: Int[Array, " D"],
) -> tuple[RunningBest, RankedRows]:
    """Add images, and return the best of the last image's prompt, and those after each image.

    ``candidates`` are the numbers of the images within their prompts: 0 begins a prompt, and -1 is no image. Of equal
    scores the smaller candidate comes first, and NaN last, as in ``best_candidates``.
    """
    keep = before.order.shape[0]
    order = jnp.where(jnp.isnan(scores), jnp.finfo(scores.dtype).min, scores)
    order = jnp.where(candidates < 0, ABSENT, order)

    def add(
        best: tuple[Array, Array, Array], image: tuple[Array, Array, Array]
    ) -> tuple[tuple[Array, Array, Array], RankedRows]:
        own = [one[None] for one in image]
        earlier = jnp.where(image[1] == 0, ABSENT, best[0])
        order, chosen = jax.lax.top_k(jnp.concatenate([earlier, own[0]]), keep)  # of equals the first comes first
        numbers, places = (jnp.concatenate([old, new])[chosen] for old, new in zip(best[1:], own[1:], strict=True))
        return (order, numbers, places), RankedRows(numbers, places)

    start = before.order, before.candidates, jnp.arange(keep)
    new = order, candidates, keep + jnp.arange(len(scores))
    (order, numbers, places), rows = jax.lax.scan(add, start, new)
    return RunningBest(order, numbers, jnp.concatenate([before.images, images])[places]), rows


class KeptImages(NamedTuple):
    """Images that are kept, and their numbers within their prompts."""

    candidates: Int[Array, " n"]
    images: UInt8[Array, "n H W 3"]


def pick_kept(
    before: UInt8[Array, "k H W 3"],
    images: UInt8[Array, "D H W 3"],
    ranked: RankedRows,
    rows: Int[Array, " n"],
    ranks: Int[Array, " n"],
) -> KeptImages:
    """Return the images of some ranks after some of the new images; ``before`` are the best images before them."""
    places = ranked.places[rows, ranks]
    return KeptImages(ranked.candidates[rows, ranks], jnp.concatenate([before, images])[places])
