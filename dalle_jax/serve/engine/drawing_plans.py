"""Plans of works in slots: what each image is begun with, and how the images that come back end the work."""

from collections.abc import Mapping
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.pipelines.edits.embedding_edits import VectorStarts
from dalle_jax.pipelines.edits.filler import FillRequest, blend
from dalle_jax.pipelines.edits.holes import HoleWork
from dalle_jax.pipelines.ranker import best_candidates
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.rows.slot_image import HoleRow, VectorRow
from dalle_jax.serve.engine.works import Drawn


class PlannedRow(NamedTuple):
    """The given parts of an image: the top of it, a window with its number and a hole, or a CLIP vector."""

    top: UInt8[np.ndarray, "h W 3"] | None = None
    hole: HoleRow | None = None
    number: int | None = None
    vector: VectorRow | None = None


class RoundOfImages(NamedTuple):
    """All images of a round by candidate, and CLIP's scores, empty without a CLIP."""

    pixels: Mapping[int, UInt8[np.ndarray, "H W 3"]]
    scores: Mapping[int, float]


@runtime_checkable
class DrawingPlan(Protocol):
    """A plan of a work's images, which are drawn in rounds: all candidates of a window before any of the next.

    ``request`` has the prompt that is held, and the options; ``steps`` are those of a decoder. ``text`` is compared
    with the images, None for no text. The scored images are those of the slots if ``plain``.
    """

    request: Request
    steps: int | None
    text: str | None
    rounds: int
    plain: bool

    def row(self, candidate: int) -> PlannedRow:
        """Return the given parts of an image of this round."""
        ...

    def finished(self, candidate: int, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image of a slot as it is scored."""
        ...

    def shown(self, candidate: int, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """Return the image to show of an unfinished one."""
        ...

    def end_round(self, images: RoundOfImages) -> list[Drawn] | None:
        """Take the images of a round. Return the kept images, best first, after the last one."""
        ...


class WholePlan:
    """Images that are drawn as a whole: of a prompt, below a given ``top``, or of CLIP vectors."""

    rounds, plain = 1, True

    def __init__(
        self, request: Request, steps: int | None = None, *, text: str | None = None,
        top: UInt8[np.ndarray, "h W 3"] | None = None, vectors: VectorStarts | None = None, eta: float = 0.0,
    ) -> None:  # fmt: skip
        """Plan ``request.options.candidates`` images. ``eta`` is the share of new noise beside given noise."""
        self.request, self.steps, self.text = request, steps, text
        self._top, self._vectors, self._eta = top, vectors, eta

    def row(self, candidate: int) -> PlannedRow:
        """Return the given parts of an image."""
        found = self._vectors
        if found is None:
            return PlannedRow(top=self._top)
        start = None if found.start is None else found.start[candidate]
        return PlannedRow(vector=VectorRow(found.vectors[candidate], start, self._eta))

    def finished(self, candidate: int, pixels: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return the image."""
        del candidate
        return pixels

    shown = finished

    def end_round(self, images: RoundOfImages) -> list[Drawn]:
        """Return the kept images."""
        options, scores = self.request.options, images.scores
        chosen = np.arange(options.kept)
        if scores:
            chosen = best_candidates(np.array([[scores[one] for one in range(options.candidates)]]), options.kept)[0]
        return [Drawn(images.pixels[int(one)], int(one), scores.get(int(one))) for one in chosen]


class HolePlan:
    """Holes that are filled window by window (edits/holes.py)."""

    plain = False

    def __init__(self, work: HoleWork, side: int, steps: int | None, text: str | None) -> None:
        """Plan the windows, of ``side`` pixels for the model. ``text`` is compared with them."""
        options: RequestOptions = work.hole.options
        self.request, self.steps, self.text = Request(work.hole.prompt, options), steps, text
        self.rounds = len(work.hole.windows)
        self._work, self._side = work, side
        self._window = self._begun(0)

    def _begun(self, number: int) -> FillRequest:
        return self._work.request(number, self._side)

    def row(self, candidate: int) -> PlannedRow:
        """Return the candidate's window, in which earlier windows are filled."""
        window = self._window
        return PlannedRow(hole=HoleRow(window.windows[candidate], window.hidden), number=window.number)

    def finished(self, candidate: int, pixels: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "S S 3"]:
        """Return the window with its kept pixels."""
        window = self._window
        return blend(window.windows[candidate][None], pixels[None], window.hidden)[0]

    def shown(self, candidate: int, pixels: UInt8[np.ndarray, "S S 3"]) -> UInt8[np.ndarray, "H W 3"]:
        """Return the whole image, with the window as far as it is drawn."""
        return self._work.so_far(candidate, self._window.number, pixels)

    def end_round(self, images: RoundOfImages) -> list[Drawn] | None:
        """Paste the windows, and begin the next ones."""
        count, number = self.request.options.candidates, self._window.number
        scores = np.array([images.scores[one] for one in range(count)]) if images.scores else None
        self._work.take(number, np.stack([images.pixels[one] for one in range(count)]), scores)
        if number + 1 < self.rounds:
            self._window = self._begun(number + 1)
            return None
        found = self._work.result()
        kept: list[float | None] = [None] * len(found.chosen) if found.scores is None else [*map(float, found.scores)]
        return [Drawn(*one) for one in zip(found.pixels, map(int, found.chosen), kept, strict=True)]
