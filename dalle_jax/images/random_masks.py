"""Random regions of images that are hidden in training of inpainting (GLIDE, arXiv 2112.10741, section 4.3).

GLIDE erases "random regions" and does not publish their shapes. Here each image has one of four kinds, so that holes,
margins and whole images are all seen: a rectangle, all but a rectangle, a brush stroke, or everything.

Letters: B batch, S side of the image, n points.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dalle_jax.arrays import Array, Bool, Float, Key

POINTS = 4
"""The points of a brush stroke, joined by straight segments."""


@dataclass(frozen=True)
class RandomMasks:
    """The shares of the kinds, and their sizes as shares of the image's side.

    - ``outside``, ``strokes``, ``everything``: the shares of images of which all but a rectangle, a brush stroke, or
      all is hidden. A rectangle is hidden in the others.
    - ``least``, ``most``: the range of a rectangle's two sides. Its middle is anywhere, so the border may cut it.
    - ``thickness``: the range of a brush's radius.
    """

    outside: float = 0.25
    strokes: float = 0.15
    everything: float = 0.1
    least: float = 0.25
    most: float = 1.0
    thickness: tuple[float, float] = (0.04, 0.15)

    def __post_init__(self) -> None:
        shares = (self.outside, self.strokes, self.everything)
        if min(shares) < 0 or sum(shares) > 1:
            raise ValueError(f"outside, strokes, everything: expected shares whose sum is at most 1, got {shares}")
        if not 0 < self.least <= self.most or not 0 < self.thickness[0] <= self.thickness[1]:
            raise ValueError(
                "least, most, thickness: expected ranges of numbers above 0, got "
                f"{self.least} to {self.most}, and {self.thickness}"
            )

    def hidden(self, keys: Key[Array, " B"], side: int) -> Bool[Array, "B S S"]:
        """Return the hidden pixels of an image for each key."""
        return jax.vmap(lambda key: self._hidden(key, side))(keys)

    def _hidden(self, key: Key[Array, ""], side: int) -> Bool[Array, "S S"]:
        kind_key, box_key, stroke_key = jax.random.split(key, 3)
        place = (jnp.arange(side) + 0.5) / side
        inside, stroke = self._rectangle(box_key, place), self._stroke(stroke_key, place)
        kind = jax.random.uniform(kind_key)
        bounds = jnp.cumsum(jnp.array([self.everything, self.strokes, self.outside]))
        rectangle = jnp.where(kind < bounds[2], ~inside, inside)
        return (kind < bounds[0]) | jnp.where(kind < bounds[1], stroke, rectangle)

    def _rectangle(self, key: Key[Array, ""], place: Float[Array, " S"]) -> Bool[Array, "S S"]:
        """Return the pixels in a rectangle."""
        size_key, middle_key = jax.random.split(key)
        sides = jax.random.uniform(size_key, (2, 1), minval=self.least, maxval=self.most)
        within = jnp.abs(place - jax.random.uniform(middle_key, (2, 1))) <= sides / 2  # [2 S], rows and columns
        return within[0][:, None] & within[1]

    def _stroke(self, key: Key[Array, ""], place: Float[Array, " S"]) -> Bool[Array, "S S"]:
        """Return the pixels within the brush's radius of a line through random points."""
        point_key, radius_key = jax.random.split(key)
        points = jax.random.uniform(point_key, (POINTS, 2))
        radius = jax.random.uniform(radius_key, minval=self.thickness[0], maxval=self.thickness[1])
        pixels = jnp.stack(jnp.meshgrid(place, place, indexing="ij"), axis=-1)  # [S S 2]
        start, along = points[:-1], jnp.diff(points, axis=0)  # [n-1 2] each
        offset = pixels[:, :, None] - start  # [S S n-1 2]
        share = ((offset * along).sum(-1) / jnp.square(along).sum(-1)).clip(0, 1)
        distance = jnp.linalg.norm(offset - share[..., None] * along, axis=-1)
        return (distance <= radius).any(-1)
