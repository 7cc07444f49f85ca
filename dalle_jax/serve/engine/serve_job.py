"""A work in the engine: who waits for it, until when, and whether it is still wanted."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from dalle_jax.serve.engine.works import Event, Failed, Finished, Partial, Work
from dalle_jax.serve.safety import Unsafe


class Expired(Exception):
    """A work that was not done before its deadline."""


@dataclass(eq=False)
class Job:
    """A work of a model.

    ``deliver`` takes its events, and ``review`` raises ``Unsafe`` for an image that must not be returned. Both are
    called on the engine's thread. ``deliver`` must not wait.
    """

    model: str
    work: Work
    deliver: Callable[[Event], None]
    review: Callable[[np.ndarray], None] | None = None
    deadline: float = float("inf")  # of time.monotonic()
    submitted: float = field(default_factory=time.monotonic)
    started: float | None = None
    ended: bool = False
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def cancel(self) -> None:
        """Give the work up; it is dropped before the next step of the devices. May be called on any thread."""
        self._cancelled.set()

    @property
    def cancelled(self) -> bool:
        """True after ``cancel``."""
        return self._cancelled.is_set()

    @property
    def images(self) -> int:
        """The number of images that are drawn."""
        return self.work.options.candidates

    def send(self, event: Event) -> None:
        """Deliver an event. Nothing follows the end, and nothing is sent of a cancelled work."""
        if self.ended or self.cancelled:
            return
        event = self._reviewed(event)
        self.ended = isinstance(event, Finished | Failed)
        self.deliver(event)

    def _reviewed(self, event: Event) -> Event:
        """Return the event, or a failure in place of an image that is refused."""
        if self.review is None or isinstance(event, Failed):
            return event
        images = [event.pixels] if isinstance(event, Partial) else [one.pixels for one in event.images]
        try:
            for pixels in images:
                self.review(pixels)
        except Unsafe as error:
            return Failed(error)
        return event

    def over(self) -> bool:
        """Return True if the work need not go on; a work past its deadline ends with ``Expired``."""
        if not self.ended and not self.cancelled and time.monotonic() > self.deadline:
            self.send(Failed(Expired()))
        return self.ended or self.cancelled
