"""A lane: slots that advance together, driven by one thread, with images of any jobs.

Images join and leave one by one. All programs have fixed shapes, whatever shares the slots, so an image is the same to
the last bit alone and in company, and in any lane.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple

import jax
import numpy as np

from dalle_jax.arrays import Array
from dalle_jax.pipelines.rows.slot_image import SlotImage
from dalle_jax.serve.engine.drawings import Drawing, Drawings, ImageInside
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.slot_model import DecodedRows, S, SlotModel
from dalle_jax.serve.engine.works import Failed, Partial

CHUNK_SECONDS, JOIN_SECONDS = 0.03, 0.01
"""About how long the devices run before cancelled images may leave, and before new ones may join if there is room."""
MOST_PASSES = 64
"""Most passes of a chunk, before their time was measured."""


class _Chunk(NamedTuple):
    """Passes that the devices run: an array that is ready after them, their number, and the time of their start."""

    started: Array
    passes: int
    begin: float


@dataclass(eq=False)
class _Decoding:
    """Images that the devices decode, each with the numbers of its partial images and its position."""

    images: Sequence[ImageInside]
    numbers: Sequence[tuple[range, int]]
    finished: bool
    decoded: DecodedRows


class Lane(Generic[S]):
    """The slots of a lane, and the images in them. ``step`` is called by one thread at a time."""

    def __init__(self, model: SlotModel[S], drawings: Drawings, like: "Lane[S] | None" = None) -> None:
        """Make a lane that shares ``drawings`` with others, and the compiled programs of ``like``."""
        self._model, self._drawings = model, drawings
        self._seconds_per_pass = CHUNK_SECONDS / MOST_PASSES
        self._last_end = 0.0
        self._begin(None if like is None else like._slots)

    def reset(self) -> None:
        """Begin with empty slots, since a failed step may have lost their state."""
        self._begin(self._slots)

    def _begin(self, like: S | None) -> None:
        self._slots = self._model.new_slots(like)
        self._inside: dict[int, ImageInside] = {}
        self._contexts: dict[Drawing, int] = {}
        self._chunks: deque[_Chunk] = deque()
        self._decoding: list[_Decoding] = []

    @property
    def busy(self) -> bool:
        """True if ``step`` has something to do for images that are in the lane."""
        return bool(self._inside or self._decoding or self._chunks)

    def step(self) -> None:
        """Let images leave and join, start a chunk of passes, and send the images that the chunk before it finished.

        The devices run a chunk while the host sends and lets images join: one chunk runs, and one waits behind it.
        """
        self._leave()
        self._join()
        decoded, self._decoding = self._decoding, []
        if self._inside:
            self._run()
        for one in decoded:
            self._send(one)
        while len(self._chunks) > (1 if self._inside else 0):
            self._wait(self._chunks.popleft())

    def _leave(self) -> None:
        """Free the slots of jobs that are over."""
        with self._drawings.lock:
            over = {one.drawing for one in self._inside.values() if one.drawing.job.over()}
        slots = [slot for slot, one in self._inside.items() if one.drawing in over]
        if slots:
            self._slots.cancel(slots)
        for slot in slots:
            del self._inside[slot]

    def _join(self) -> None:
        """Put waiting images into free slots, those of earlier jobs first, in one call."""
        coming = self._taken()
        if coming:
            slots = self._slots.insert([self._given(*one) for one in coming])
            for slot, (drawing, number) in zip(slots, coming, strict=True):
                self._inside[slot] = ImageInside(drawing, number, self._slots.position(slot))
        self._release_contexts()

    def _taken(self) -> list[tuple[Drawing, int]]:
        """Take waiting images for the free slots, with their prompts held."""
        self._release_contexts()
        taken: list[tuple[Drawing, int]] = []
        with self._drawings.lock:
            free, places = self._slots.slots - len(self._inside), self._slots.free_contexts
            for drawing in self._drawings.every:
                count = min(len(drawing.waiting), free - len(taken))
                if not count or (drawing not in self._contexts and not places):
                    continue
                places -= drawing not in self._contexts
                taken += [(drawing, drawing.waiting.popleft()) for _ in range(count)]
        failed = {drawing for drawing in dict(taken) if drawing not in self._contexts and not self._hold(drawing)}
        return [one for one in taken if one[0] not in failed]

    def _hold(self, drawing: Drawing) -> bool:
        """Hold a job's prompt, or end the job and return False if its prompt cannot be read."""
        plan = drawing.plan
        try:
            self._contexts[drawing] = self._model.hold(self._slots, plan.request, plan.steps)
        except Exception as error:
            self._fail(drawing.job, error)
            return False
        return True

    def _fail(self, job: Job, error: Exception) -> None:
        with self._drawings.lock:
            job.send(Failed(error))

    def _release_contexts(self) -> None:
        """Release the prompts of which no image will wait, and those of jobs that are over."""
        with self._drawings.lock:
            every = set(self._drawings.every)
            needless = [one for one in self._contexts if one not in every or (one.last and not one.waiting)]
        for one in needless:
            self._slots.release(self._contexts.pop(one))

    def _given(self, drawing: Drawing, number: int) -> SlotImage:
        """Return candidate ``number`` of a job as an image to insert."""
        options = drawing.plan.request.options
        image = SlotImage(self._contexts[drawing], options.seed, options.first + number, options)
        return self._model.image(image, drawing.plan.row(number))

    def _run(self) -> None:
        """Start a chunk of passes, and the decoding of images that are then finished or due to be shown."""
        passes, begin = self._passes(), time.monotonic()
        done = self._slots.advance(passes)
        self._chunks.append(_Chunk(self._slots.started(), passes, begin))
        for slot, one in self._inside.items():
            one.position = self._slots.position(slot)
        due = [slot for slot, one in self._inside.items() if slot not in done and one.due]
        for slots, finished in ((due, False), (done, True)):
            if slots:
                self._decoding.append(self._decoded(slots, finished=finished))

    def _passes(self) -> int:
        """Return the passes until an image is finished or due to be shown, at most those of a chunk."""
        seconds = CHUNK_SECONDS if len(self._inside) == self._slots.slots else JOIN_SECONDS
        most = min(MOST_PASSES, max(1, round(seconds / max(self._seconds_per_pass, 1e-6))))
        ends = [one.left for one in self._inside.values()]
        due = [place - one.position for one in self._inside.values() for place in one.places_shown()]
        return max(1, min([most, *ends, *(one for one in due if one > 0)]))

    def _wait(self, chunk: _Chunk) -> None:
        """Wait until the devices have run a chunk, and measure the time of its passes."""
        jax.block_until_ready(chunk.started)
        seconds = time.monotonic() - max(chunk.begin, self._last_end)
        self._last_end = time.monotonic()
        if self._model.pipeline.layout.is_local:  # processes of one mesh must run equal chunks, so they measure no time
            self._seconds_per_pass += 0.2 * (seconds / chunk.passes - self._seconds_per_pass)

    def _decoded(self, slots: Sequence[int], *, finished: bool) -> _Decoding:
        """Start decoding images."""
        images = [self._inside.pop(slot) if finished else self._inside[slot] for slot in slots]
        scored = finished and any(one.drawing.plan.plain and one.drawing.text is not None for one in images)
        numbers: list[tuple[range, int]] = []
        for one in images:
            sent, due = one.drawing.sent[one.candidate], 0 if finished else one.due
            one.drawing.sent[one.candidate] += due
            numbers.append((range(sent, sent + due), one.position))
        decoded = self._model.decode(self._slots, slots, finished=finished, scored=scored)
        return _Decoding(images, numbers, finished, decoded)

    def _send(self, decoding: _Decoding) -> None:
        """Send images as far as they are drawn, or the jobs whose images are all finished."""
        decoded = decoding.decoded.pixels
        every = np.asarray(decoded) if isinstance(decoded, jax.Array) else [np.asarray(one) for one in decoded]
        vectors = None if decoding.decoded.vectors is None else np.asarray(decoding.decoded.vectors)
        for row, (one, (shown, position)) in enumerate(zip(decoding.images, decoding.numbers, strict=True)):
            vector = None if vectors is None else vectors[row]
            with self._drawings.lock:
                if one.drawing not in self._drawings.every:  # given up meanwhile
                    continue
                if decoding.finished:
                    self._finish(one, every[row], vector)
                    continue
                seen = one.drawing.plan.shown(one.candidate, self._model.seen(every[row], position))
                for number in shown:
                    one.drawing.job.send(Partial(one.candidate, number, seen))

    def _finish(self, one: ImageInside, pixels: np.ndarray, vector: np.ndarray | None) -> None:
        """Keep a finished image with its score, and end the round with the last one."""
        drawing = one.drawing
        drawing.pixels[one.candidate] = image = drawing.plan.finished(one.candidate, pixels)
        if drawing.text is not None:
            vector = self._model.vector(image) if vector is None or not drawing.plan.plain else vector
            drawing.scores[one.candidate] = float(vector @ drawing.text[0])
        if len(drawing.pixels) == drawing.plan.request.options.candidates and drawing.end_round():
            self._drawings.every.remove(drawing)
