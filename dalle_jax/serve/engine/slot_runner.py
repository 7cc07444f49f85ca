"""Continuous batching: images of many requests join and leave a running batch one by one.

The batch is one lane of slots, or several that advance beside each other, each by a thread of its own:

    engine's thread   jobs → drawings, whose images wait
    lane's thread     waiting images → slots → passes → decoded images → the clients        (serve/engine/slot_lane.py)

A program of small products keeps one core of a CPU busy, so that lanes are for its other cores. JAX runs the programs
that one thread starts one after the other.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from typing import Generic

import numpy as np

from dalle_jax.arrays import Float
from dalle_jax.serve.engine.drawing_plans import DrawingPlan
from dalle_jax.serve.engine.drawings import Drawing, Drawings
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.slot_lane import JOIN_SECONDS, Lane
from dalle_jax.serve.engine.slot_model import S, SlotModel
from dalle_jax.serve.engine.works import Event, Failed, Work

KEPT_TEXTS = 256
"""Prompts whose CLIP vectors are kept."""


class SlotRunner(Generic[S]):
    """A model at work. ``plan`` plans a work, and may fail."""

    def __init__(self, model: SlotModel[S], plan: Callable[[Work], DrawingPlan], lanes: int = 1) -> None:
        """Make ``lanes`` lanes of ``model.count`` slots each."""
        self._model, self._plan = model, plan
        self._drawings = Drawings()
        self._texts: OrderedDict[str, Float[np.ndarray, "1 E"]] = OrderedDict()
        first = Lane(model, self._drawings)
        self._lanes = [first, *(Lane(model, self._drawings, first) for _ in range(lanes - 1))]
        self._used = self._lanes
        self._threads = [ThreadPoolExecutor(1, f"lane-{number}") for number in range(lanes if lanes > 1 else 0)]
        self._steps: dict[int, Future[None]] = {}  # of lanes that work, by their number

    @property
    def busy(self) -> bool:
        """True if there are jobs, or steps that have not ended."""
        return bool(self._drawings.every or self._steps)

    def admit(self, job: Job) -> bool:
        """Take a job over, or return False if there is no room: as many images wait as there are slots."""
        with self._drawings.lock:
            if self._drawings.waiting >= self._model.count * len(self._lanes):
                return False
        try:
            plan = self._plan(job.work)
            drawing = Drawing(job, plan, self._model.length(plan.steps), self._text_vector(plan.text))
        except Exception as error:
            job.send(Failed(error))
            return True
        drawing.waiting.extend(range(plan.request.options.candidates))
        with self._drawings.lock:
            self._drawings.every.append(drawing)
        return True

    def step(self) -> None:
        """Run a step of the lane; with several lanes start a step of each that has none, and wait for one to end.

        Raise the error of a step that failed. It waits for a short time, so that new jobs find lanes that are idle.
        """
        self._drawings.forget()
        if not self._threads:
            self._lanes[0].step()
            return
        for number, lane in enumerate(self._used):
            if number not in self._steps and (lane.busy or self._drawings.waiting):
                self._steps[number] = self._threads[number].submit(lane.step)
        wait(self._steps.values(), JOIN_SECONDS, FIRST_COMPLETED)
        for number in [number for number, one in self._steps.items() if one.done()]:
            self._steps.pop(number).result()

    def drop(self, error: Exception) -> None:
        """End all jobs with an error, and begin with new slots."""
        wait(self._steps.values())
        self._steps.clear()
        with self._drawings.lock:
            for one in self._drawings.every:
                one.job.send(Failed(error))
            self._drawings.every.clear()
        for lane in self._lanes:
            lane.reset()

    def warm(self, works: Sequence[Work]) -> None:
        """Compile all programs by a run of works, the last of which is given up. All lanes have the same programs."""
        self._used = self._lanes[:1]
        jobs = deque(Job("", work, _raise_failure) for work in works)
        last = jobs[-1]
        while jobs or self.busy:
            while jobs and self.admit(jobs[0]):
                jobs.popleft()
            self.step()
            if not jobs:
                last.cancel()
        self._used = self._lanes

    def _text_vector(self, text: str | None) -> Float[np.ndarray, "1 E"] | None:
        """Return CLIP's vector of a text; those of the last texts are kept."""
        ranker = self._model.pipeline.ranker
        if ranker is None or text is None:
            return None
        found = self._texts.pop(text, None)
        self._texts[text] = ranker.text_vectors([text]) if found is None else found
        if len(self._texts) > KEPT_TEXTS:
            self._texts.popitem(last=False)
        return self._texts[text]


def _raise_failure(event: Event) -> None:
    """Raise the error of a job that failed."""
    if isinstance(event, Failed):
        raise event.error
