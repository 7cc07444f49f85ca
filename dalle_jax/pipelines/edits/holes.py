"""Holes in images of any size, filled in square windows that are resized to the model's size and pasted back."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from dalle_jax.arrays import Bool, Float, Int, UInt8
from dalle_jax.images.pixels import resize
from dalle_jax.pipelines.edits.filler import FillRequest, HoleFiller, fill
from dalle_jax.pipelines.edits.windows import Tile, Window, hidden_cells
from dalle_jax.pipelines.ranker import best_candidates
from dalle_jax.pipelines.request import RequestOptions


@dataclass(frozen=True, eq=False)
class Hole:
    """An image in RGB, its hidden pixels, the windows that fill them in order, and the prompt of all windows."""

    pixels: UInt8[np.ndarray, "H W 3"]
    hidden: Bool[np.ndarray, "H W"]
    windows: tuple[Window, ...]
    prompt: str
    options: RequestOptions


@dataclass(frozen=True, eq=False)
class Filled:
    """The kept results of a hole, uint8 [k H W 3], best first.

    ``scores`` is CLIP's mean similarity of the prompt with the windows [k], None without a CLIP. ``chosen`` are the
    numbers of the kept candidates.
    """

    pixels: UInt8[np.ndarray, "k H W 3"]
    scores: Float[np.ndarray, " k"] | None
    chosen: Int[np.ndarray, " k"]


def fill_holes(filler: HoleFiller, holes: Sequence[Hole]) -> list[Filled]:
    """Fill all holes, in order. The windows of equal number of different holes share calls of the model."""
    works = [HoleWork.of(hole) for hole in holes]
    for number in range(max(len(one.hole.windows) for one in works)):
        waiting = [one for one in works if number < len(one.hole.windows)]
        requests = [one.request(number, filler.side) for one in waiting]
        for one, drawn in zip(waiting, fill(filler, requests), strict=True):
            one.take(number, drawn.candidates, drawn.candidate_scores)
    return [one.result() for one in works]


GREY = 128
"""The value of windows of which nothing is known."""


def cover(windows: UInt8[np.ndarray, "M h w 3"], hidden: Bool[np.ndarray, "h w"]) -> UInt8[np.ndarray, "M h w 3"]:
    """Return windows in which the nearest kept pixel stands for each hidden one.

    So nothing of what a mask hides reaches the model, through a resizing or an encoder that looks beyond a cell.
    """
    if hidden.all():
        return np.full_like(windows, GREY)
    rows, columns = ndimage.distance_transform_edt(hidden, return_distances=False, return_indices=True)
    return windows[:, rows, columns]


@dataclass(eq=False)
class HoleWork:
    """The candidates of a hole while its windows are filled, on the smallest part of the plane that holds them all.

    ``hidden`` pixels are still to be filled. ``outside`` ones lie beyond the image: the model draws them too, but they
    are thrown away.
    """

    hole: Hole
    top: int
    left: int
    hidden: Bool[np.ndarray, "h w"]
    outside: Bool[np.ndarray, "h w"]
    canvases: UInt8[np.ndarray, "M h w 3"]
    scores: list[Float[np.ndarray, " M"]] = field(default_factory=list)

    @classmethod
    def of(cls, hole: Hole) -> "HoleWork":
        """Cut the part that the windows cover."""
        height, width = hole.hidden.shape
        top, left = (min(getattr(one, name) for one in hole.windows) for name in ("top", "left"))
        bottom, right = (max(getattr(one, name) + one.side for one in hole.windows) for name in ("top", "left"))
        beyond = ((max(0, -top), max(0, bottom - height)), (max(0, -left), max(0, right - width)))
        inside = (slice(max(0, top), bottom), slice(max(0, left), right))
        outside = np.pad(np.zeros_like(hole.hidden[inside]), beyond, constant_values=True)
        canvas = np.pad(hole.pixels[inside], (*beyond, (0, 0)))
        canvases = np.repeat(canvas[None], hole.options.candidates, axis=0)
        return cls(hole, top, left, np.pad(hole.hidden[inside], beyond), outside, canvases)

    def moved(self, square: Window | Tile) -> tuple[slice, slice]:
        """Return the rows and columns of a part of the image on the canvases."""
        rows, columns = square.part
        return (
            slice(rows.start - self.top, rows.stop - self.top),
            slice(columns.start - self.left, columns.stop - self.left),
        )

    def request(self, number: int, side: int) -> FillRequest:
        """Return the request that draws the pixels of a window that are not known by now, at the model's size."""
        part = self.moved(self.hole.windows[number])
        unknown = self.hidden[part] | self.outside[part]
        covered = cover(self.canvases[(slice(None), *part)], unknown)
        windows = np.stack([resize(one, side, side) for one in covered])
        options, hidden = replace(self.hole.options, keep=1), hidden_cells(unknown, side, side)
        return FillRequest(prompt=self.hole.prompt, options=options, windows=windows, hidden=hidden, number=number)

    def take(self, number: int, filled: UInt8[np.ndarray, "M S S 3"], scores: Float[np.ndarray, " M"] | None) -> None:
        """Paste the hidden pixels of a window's tile."""
        for canvas, one in zip(self.canvases, filled, strict=True):
            self._paste(canvas, number, one)
        self.hidden[self.moved(self.hole.windows[number].tile)] = False
        self.scores += [] if scores is None else [scores]

    def _paste(self, canvas: UInt8[np.ndarray, "h w 3"], number: int, filled: UInt8[np.ndarray, "S S 3"]) -> None:
        """Paste the hidden pixels of the tile of window ``number``."""
        window = self.hole.windows[number]
        part, tile = self.moved(window), self.moved(window.tile)
        pasted = np.zeros_like(self.hidden)
        pasted[tile] = self.hidden[tile]
        canvas[part][pasted[part]] = resize(filled, window.side, window.side)[pasted[part]]

    def so_far(self, candidate: int, number: int, filled: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return the whole image of a candidate while its window ``number`` is filled; later windows are grey."""
        canvas = self.canvases[candidate].copy()
        self._paste(canvas, number, filled)
        tile, later = self.moved(self.hole.windows[number].tile), self.hidden & ~self.outside
        later[tile] = False
        canvas[later] = GREY
        return self._whole(canvas)

    def result(self) -> Filled:
        """Return the kept candidates in whole images."""
        options = self.hole.options
        scores = np.mean(self.scores, axis=0) if self.scores else None
        chosen = np.arange(options.kept) if scores is None else best_candidates(scores[None], options.kept)[0]
        pixels = np.stack([self._whole(self.canvases[one]) for one in chosen])
        return Filled(pixels, None if scores is None else scores[chosen], chosen)

    def _whole(self, canvas: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return the whole image with the part that a canvas holds."""
        rows, columns = (np.flatnonzero(~self.outside.all(axis=axis)) for axis in (1, 0))
        own = canvas[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
        pixels, top, left = self.hole.pixels.copy(), max(0, self.top), max(0, self.left)
        pixels[top : top + own.shape[0], left : left + own.shape[1]] = own
        return pixels
