"""Jobs at work: the images of a round that wait for a slot, those in slots, and those that are finished."""

import threading
from collections import Counter, deque
from dataclasses import dataclass, field

import numpy as np

from dalle_jax.arrays import Float, UInt8
from dalle_jax.serve.engine.drawing_plans import DrawingPlan, RoundOfImages
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Finished


@dataclass(eq=False)
class Drawing:
    """A job at work: the candidates of its round that wait for a slot, and those that are finished.

    ``length`` is the number of passes of an image, and ``text`` is CLIP's vector of the text to compare with.
    """

    job: Job
    plan: DrawingPlan
    length: int
    text: Float[np.ndarray, "1 E"] | None
    round: int = 0
    waiting: deque[int] = field(default_factory=deque)
    pixels: dict[int, UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)
    sent: Counter[int] = field(default_factory=Counter)

    @property
    def last(self) -> bool:
        """True in the last round."""
        return self.round + 1 == self.plan.rounds

    def end_round(self) -> bool:
        """Send the job's images, or let the candidates of its next round wait; return True if the job is done."""
        drawn = self.plan.end_round(RoundOfImages(self.pixels, self.scores))
        if drawn is not None:
            self.job.send(Finished(drawn))
            return True
        self.round += 1
        self.pixels, self.scores = {}, {}
        self.waiting.extend(range(self.plan.request.options.candidates))
        return False


@dataclass(eq=False)
class ImageInside:
    """An image in a slot: its candidate's number, and how far it is drawn."""

    drawing: Drawing
    candidate: int
    position: int

    @property
    def left(self) -> int:
        """The number of passes that the image still needs."""
        return self.drawing.length - self.position

    def places_shown(self) -> list[int]:
        """Return the positions of its partial images that are not sent, as far as they are in this round."""
        drawing = self.drawing
        work, sent = drawing.job.work, drawing.sent[self.candidate]
        if self.candidate >= work.shown_images:
            return []
        length, total = drawing.length, drawing.length * drawing.plan.rounds
        places = [int(share * total) - drawing.round * length for share in work.shown[sent:]]
        return [max(1, place) for place in places if place < length]

    @property
    def due(self) -> int:
        """The number of its partial images that it is drawn far enough for."""
        return sum(place <= self.position for place in self.places_shown())


class Drawings:
    """The jobs of a model, in the order of their arrival. Lanes share them, each under ``lock``."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.every: list[Drawing] = []

    @property
    def waiting(self) -> int:
        """The number of images that wait for a slot."""
        return sum(len(one.waiting) for one in self.every)

    def forget(self) -> None:
        """Forget the jobs that are over; lanes free their slots."""
        with self.lock:
            self.every = [one for one in self.every if not one.job.over()]
