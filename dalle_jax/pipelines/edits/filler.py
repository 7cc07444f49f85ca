"""The interface of models that fill holes in images of their own size, and the part that all of them share."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from scipy import ndimage

from dalle_jax.arrays import Array, Bool, Int, UInt8
from dalle_jax.pipelines.buckets import draw_in_buckets
from dalle_jax.pipelines.edits.windows import hidden_cells
from dalle_jax.pipelines.image_codec import ImageCodec
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Generation, Request


@dataclass(frozen=True, kw_only=True)
class FillRequest(Request):
    """A prompt, and the windows of the model's size whose hidden pixels it describes, one for each candidate.

    ``number`` counts the windows of one image, so that each has its own noise.
    """

    windows: UInt8[np.ndarray, "M S S 3"]
    hidden: Bool[np.ndarray, "S S"]
    number: int = 0


class HoleFiller(ABC):
    """A model that draws codes for the hidden cells of windows, and the parts from codes to ranked images."""

    def __init__(self, codec: ImageCodec, grid: tuple[int, int], ranker: ClipRanker | None, batch: int) -> None:
        """Take the parts of a pipeline; a call fills at most ``batch`` windows."""
        self.codec, self.grid, self.ranker, self.batch = codec, grid, ranker, batch

    @property
    def side(self) -> int:
        """The side of a window in pixels, S."""
        return self.grid[0] * self.codec.downsample

    def fill(self, requests: list[FillRequest]) -> list[Generation]:
        """Fill the windows of every request, in order; the pixels of the results that are not hidden are exact.

        An image depends on its seed, its candidate's number and the kept pixels alone, in any batch.
        """
        return draw_in_buckets(requests, self.batch, self._fill_call)

    @abstractmethod
    def draw_codes(
        self, requests: list[FillRequest], known: Int[Array, "P M I"], keep: Bool[Array, "P I"], first: int
    ) -> Int[Array, "P M I"]:
        """Draw the codes of candidates ``first`` to ``first + M - 1``; ``known`` codes stay where ``keep`` is True."""

    def _fill_call(self, requests: list[FillRequest], first: int, count: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Fill ``count`` windows of each request in one call; return images [P M S S 3] and scores [P M]."""
        windows, hidden = _stacked(requests, first, count), np.stack([one.hidden for one in requests])
        rows = len(requests) * count
        known = self.codec.encode_device(windows.reshape(rows, *windows.shape[2:])).reshape(len(requests), count, -1)
        keep = np.stack([~hidden_cells(one, *self.grid).reshape(-1) for one in hidden])
        codes = self.draw_codes(requests, known, jnp.asarray(keep), first)
        drawn = np.asarray(self.codec.decode_device(codes.reshape(rows, *self.grid))).reshape(windows.shape)
        filled = np.stack([blend(*one) for one in zip(windows, drawn, hidden, strict=True)])
        if self.ranker is None or any(one.text is None for one in requests):
            return filled, None
        texts = [str(one.text) for one in requests]
        return filled, self.ranker.scores(jnp.asarray(filled.reshape(rows, *filled.shape[2:])), texts)


def _stacked(requests: list[FillRequest], first: int, count: int) -> UInt8[np.ndarray, "P M S S 3"]:
    """Return the windows of the candidates; those beyond a request's own, which fill up the call, repeat its last."""
    found = []
    for one in requests:
        numbers = first - one.options.first + np.arange(count)
        found.append(one.windows[np.minimum(numbers, len(one.windows) - 1)])
    return np.stack(found)


BLEND = 1 / 32
"""The distance over which a correction fades into the hole, as a share of the window's side."""


def blend(
    kept: UInt8[np.ndarray, "M S S 3"], drawn: UInt8[np.ndarray, "M S S 3"], hidden: Bool[np.ndarray, "S S"]
) -> UInt8[np.ndarray, "M S S 3"]:
    """Return the kept pixels, and the drawn ones where ``hidden``, corrected so that no seam shows.

    The model decodes the whole window, so its error is known at the kept pixels. The mean error of those nearby is
    subtracted from a hidden pixel, by less the deeper it lies in the hole (normalised convolution, Knutsson and
    Westin 1993, with the weight of the known pixels bounded from below by its value at a straight edge, 1/2).
    """
    sigma = BLEND * hidden.shape[0]
    known = (~hidden).astype(np.float32)
    error = (kept.astype(np.float32) - drawn) * known[..., None]
    weight = ndimage.gaussian_filter(known, sigma, mode="nearest")
    mean = ndimage.gaussian_filter(error, (0, sigma, sigma, 0), mode="nearest")
    corrected = drawn + mean / np.maximum(weight, 0.5)[..., None]
    return np.where(hidden[..., None], np.rint(corrected).clip(0, 255).astype(np.uint8), kept)
