"""Continuous batching: images of many requests join and leave a running batch one by one.

All programs have fixed shapes, whatever shares the batch, so an image is the same to the last bit alone and in company.
"""

import math
import time
from abc import ABC, abstractmethod
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from dalle_jax.arrays import Array, Float, UInt8
from dalle_jax.pipelines.load.pipeline import AnyPipeline
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.rows.slot_image import SlotImage
from dalle_jax.serve.engine.drawing_plans import DrawingPlan, PlannedRow, RoundOfImages
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Event, Failed, Finished, Partial, Work

CHUNK_SECONDS, JOIN_SECONDS = 0.03, 0.005
"""About how long the devices run before cancelled images may leave, and before new ones may join if there is room."""
MOST_PASSES = 64
"""Most passes of a chunk, before their time was measured."""
KEPT_TEXTS = 256
"""Prompts whose CLIP vectors are kept."""
DECODED_TOGETHER = 8
"""Images of one call of the image tokenizer on an accelerator; on a CPU it is 1."""


@dataclass(eq=False)
class _Drawing:
    """A job at work: the candidates of its round that wait for a slot, and those that are finished."""

    job: Job
    plan: DrawingPlan
    length: int
    context: int | None
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


@dataclass(eq=False)
class _Inside:
    """An image in a slot: its candidate's number, and how far it is drawn."""

    drawing: _Drawing
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


class _Chunk(NamedTuple):
    """Passes that the devices run: an array that is ready after them, their number, and the time of their start."""

    started: Array
    passes: int
    begin: float


@dataclass(eq=False)
class _Decoding:
    """Images that the devices decode, each with the numbers of its partial images and its position."""

    images: Sequence[_Inside]
    numbers: Sequence[tuple[range, int]]
    finished: bool
    decoded: "DecodedRows"


class DecodedRows(NamedTuple):
    """Images on the devices, in an array or one by one, and CLIP's vectors of them, None if they are not encoded."""

    pixels: Sequence[UInt8[Array, "H W 3"]] | UInt8[Array, "B H W 3"]
    vectors: Float[Array, "B E"] | None


@runtime_checkable
class ImageSlots(Protocol):
    """The slots of a model: ``SlotEngine`` and ``DenoisingSlots``."""

    slots: int

    @property
    def free_contexts(self) -> int:
        """The number of prompts that can still be held."""
        ...

    def release(self, context: int) -> None:
        """Free the place of a held prompt."""
        ...

    def insert(self, images: Sequence[SlotImage]) -> list[int]:
        """Put as many of the first images into slots as there is room for, and return their slots."""
        ...

    def advance(self, passes: int) -> list[int]:
        """Run passes until an image is finished, at most ``passes``; return the slots of finished images."""
        ...

    def position(self, slot: int) -> int:
        """Return how far the image in a slot is drawn, of the length of its drawing."""
        ...

    def started(self) -> Array:
        """Return an array that is ready once the devices have run all passes up to now."""
        ...

    def cancel(self, slots: Sequence[int]) -> None:
        """Free slots whatever is in them."""
        ...


class SlotRunner(ABC):
    """A model at work: as many images at once as its pipeline's ``batch``. ``plan`` plans a work, and may fail."""

    def __init__(self, pipeline: AnyPipeline, plan: Callable[[Work], DrawingPlan]) -> None:
        self._pipeline, self._plan = pipeline, plan
        together = math.gcd(DECODED_TOGETHER, pipeline.batch) if pipeline.parts == 1 else pipeline.batch
        self._together = 1 if pipeline.layout.platform == "cpu" and pipeline.parts == 1 else together
        self._engine = self._new_slots()
        self._drawings: list[_Drawing] = []
        self._texts: OrderedDict[str, Float[np.ndarray, "1 E"]] = OrderedDict()
        self._inside: dict[int, _Inside] = {}
        self._chunks: deque[_Chunk] = deque()
        self._decoding: list[_Decoding] = []
        self._seconds_per_pass = CHUNK_SECONDS / MOST_PASSES
        self._last_end = 0.0

    @abstractmethod
    def _new_slots(self) -> ImageSlots:
        """Return empty slots."""

    @abstractmethod
    def _hold(self, request: Request, steps: int | None) -> int:
        """Hold a request's prompt, and return its number."""

    @abstractmethod
    def _length(self, steps: int | None) -> int:
        """Return the passes of an image from its first to its last."""

    @abstractmethod
    def _decode(self, slots: Sequence[int], *, finished: bool, scored: bool) -> DecodedRows:
        """Start decoding images, and encoding them by CLIP if they are ``scored``; finished ones leave their slots."""

    def _image(self, image: SlotImage, row: PlannedRow) -> SlotImage:
        """Return an image to insert with its given parts."""
        return image._replace(hole=row.hole, number=row.number, vector=row.vector)

    def _seen(self, pixels: UInt8[np.ndarray, "H W 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an unfinished image as it is shown."""
        del position
        return pixels

    @property
    def busy(self) -> bool:
        """True if there are jobs."""
        return bool(self._drawings)

    def admit(self, job: Job) -> bool:
        """Take a job over, or return False if there is no room: as many images wait as there are slots."""
        waiting = sum(len(one.waiting) for one in self._drawings)
        if waiting >= self._engine.slots or not self._engine.free_contexts:
            return False
        try:
            plan = self._plan(job.work)
            context, text = self._hold(plan.request, plan.steps), self._text_vector(plan.text)
        except Exception as error:
            job.send(Failed(error))
            return True
        drawing = _Drawing(job, plan, self._length(plan.steps), context, text)
        drawing.waiting.extend(range(plan.request.options.candidates))
        self._drawings.append(drawing)
        return True

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

    def _run(self) -> None:
        """Start a chunk of passes, and the decoding of images that are then finished or due to be shown."""
        passes, begin = self._passes(), time.monotonic()
        done = self._engine.advance(passes)
        self._chunks.append(_Chunk(self._engine.started(), passes, begin))
        for slot, one in self._inside.items():
            one.position = self._engine.position(slot)
        due = [slot for slot, one in self._inside.items() if slot not in done and one.due]
        for slots, finished in ((due, False), (done, True)):
            if slots:
                self._decoding.append(self._decoded(slots, finished=finished))

    def _wait(self, chunk: _Chunk) -> None:
        """Wait until the devices have run a chunk, and measure the time of its passes."""
        jax.block_until_ready(chunk.started)
        seconds = time.monotonic() - max(chunk.begin, self._last_end)
        self._last_end = time.monotonic()
        if self._pipeline.layout.is_local:  # processes of one mesh must run equal chunks, so they measure no time
            self._seconds_per_pass += 0.2 * (seconds / chunk.passes - self._seconds_per_pass)

    def drop(self, error: Exception) -> None:
        """End all jobs with an error, and begin with new slots, since a failed step may have lost their state."""
        for one in self._drawings:
            one.job.send(Failed(error))
        self._drawings.clear()
        self._inside.clear()
        self._chunks.clear()
        self._decoding.clear()
        self._engine = self._new_slots()

    def warm(self, works: Sequence[Work]) -> None:
        """Compile all programs by a run of works, the last of which is given up."""
        jobs = deque(Job("", work, _raise_failure) for work in works)
        last = jobs[-1]
        while jobs or self.busy:
            while jobs and self.admit(jobs[0]):
                jobs.popleft()
            self.step()
            if not jobs:
                last.cancel()

    def _text_vector(self, text: str | None) -> Float[np.ndarray, "1 E"] | None:
        """Return CLIP's vector of a text; those of the last texts are kept."""
        ranker = self._pipeline.ranker
        if ranker is None or text is None:
            return None
        found = self._texts.pop(text, None)
        self._texts[text] = ranker.text_vectors([text]) if found is None else found
        if len(self._texts) > KEPT_TEXTS:
            self._texts.popitem(last=False)
        return self._texts[text]

    def _leave(self) -> None:
        """Free the slots and the prompts of jobs that are over."""
        over = [one for one in self._drawings if one.job.over()]
        slots = [slot for slot, one in self._inside.items() if one.drawing in over]
        if slots:
            self._engine.cancel(slots)
        for slot in slots:
            del self._inside[slot]
        for one in over:
            self._release(one)
            self._drawings.remove(one)

    def _release(self, drawing: _Drawing) -> None:
        if drawing.context is not None:
            self._engine.release(drawing.context)
            drawing.context = None

    def _join(self) -> None:
        """Put waiting images into free slots, those of earlier jobs first, in one call."""
        coming = [(one, number) for one in self._drawings for number in one.waiting][: self._engine.slots]
        if not coming:
            return
        for slot, (drawing, number) in zip(
            self._engine.insert([self._given(*one) for one in coming]), coming, strict=False
        ):
            self._inside[slot] = _Inside(drawing, number, self._engine.position(slot))
            drawing.waiting.popleft()
        for one in self._drawings:
            if not one.waiting and one.last:
                self._release(one)

    def _given(self, drawing: _Drawing, number: int) -> SlotImage:
        """Return candidate ``number`` of a job as an image to insert."""
        assert drawing.context is not None  # it is released once no image waits
        options = drawing.plan.request.options
        image = SlotImage(drawing.context, options.seed, options.first + number, options)
        return self._image(image, drawing.plan.row(number))

    def _passes(self) -> int:
        """Return the passes until an image is finished or due to be shown, at most those of a chunk."""
        seconds = CHUNK_SECONDS if len(self._inside) == self._engine.slots else JOIN_SECONDS
        most = min(MOST_PASSES, max(1, round(seconds / max(self._seconds_per_pass, 1e-6))))
        ends = [one.left for one in self._inside.values()]
        due = [place - one.position for one in self._inside.values() for place in one.places_shown()]
        return max(1, min([most, *ends, *(one for one in due if one > 0)]))

    def _decoded(self, slots: Sequence[int], *, finished: bool) -> _Decoding:
        """Start decoding images."""
        images = [self._inside.pop(slot) if finished else self._inside[slot] for slot in slots]
        scored = finished and any(one.drawing.plan.plain and one.drawing.text is not None for one in images)
        numbers: list[tuple[range, int]] = []
        for one in images:
            sent, due = one.drawing.sent[one.candidate], 0 if finished else one.due
            one.drawing.sent[one.candidate] += due
            numbers.append((range(sent, sent + due), one.position))
        return _Decoding(images, numbers, finished, self._decode(slots, finished=finished, scored=scored))

    def _send(self, decoding: _Decoding) -> None:
        """Send images as far as they are drawn, or the jobs whose images are all finished."""
        decoded = decoding.decoded.pixels
        every = np.asarray(decoded) if isinstance(decoded, jax.Array) else [np.asarray(one) for one in decoded]
        vectors = None if decoding.decoded.vectors is None else np.asarray(decoding.decoded.vectors)
        for row, (one, (shown, position)) in enumerate(zip(decoding.images, decoding.numbers, strict=True)):
            drawing, pixels = one.drawing, every[row]
            if drawing not in self._drawings:  # given up meanwhile
                continue
            if not decoding.finished:
                seen = drawing.plan.shown(one.candidate, self._seen(pixels, position))
                for number in shown:
                    drawing.job.send(Partial(one.candidate, number, seen))
                continue
            drawing.pixels[one.candidate] = image = drawing.plan.finished(one.candidate, pixels)
            if drawing.text is not None:
                vector = self._vector(image) if vectors is None or not drawing.plan.plain else vectors[row]
                drawing.scores[one.candidate] = float(vector @ drawing.text[0])
            if len(drawing.pixels) == drawing.plan.request.options.candidates:
                self._end_round(drawing)

    def _vector(self, image: UInt8[np.ndarray, "H W 3"]) -> Float[np.ndarray, " E"]:
        """Return CLIP's vector of an image that the devices did not encode with its decoding."""
        assert self._pipeline.ranker is not None  # a job without one has no text
        return self._pipeline.ranker.image_vectors(image[None])[0]

    def _end_round(self, drawing: _Drawing) -> None:
        """End a job, or let the candidates of its next round wait for slots."""
        drawn = drawing.plan.end_round(RoundOfImages(drawing.pixels, drawing.scores))
        if drawn is not None:
            drawing.job.send(Finished(drawn))
            self._drawings.remove(drawing)
            return
        drawing.round += 1
        drawing.pixels, drawing.scores = {}, {}
        drawing.waiting.extend(range(drawing.plan.request.options.candidates))


def _raise_failure(event: Event) -> None:
    """Raise the error of a job that failed."""
    if isinstance(event, Failed):
        raise event.error
