"""Continuous batching: images of many requests join and leave a running batch one by one.

All programs have fixed shapes, whatever shares the batch, so an image is the same to the last bit alone and in company.
"""

import math
import time
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np

from dalle_jax.arrays import Array, Float, Int, UInt8
from dalle_jax.pipelines.ranker import best_candidates
from dalle_jax.pipelines.request import Request, RequestOptions
from dalle_jax.pipelines.slot_engine import GivenRow, SlotImage
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.serve.engine.call_runner import CallRunner
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Drawn, Event, Failed, Finished, Generate, Partial, Work

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
    """A job at work: its candidates that wait for a slot, those in slots, and those that are finished."""

    job: Job
    request: Request
    shown: tuple[float, ...]
    length: int
    context: int | None
    given: GivenRow | None
    text: Float[np.ndarray, "1 E"] | None
    waiting: deque[int] = field(default_factory=deque)
    pixels: dict[int, UInt8[np.ndarray, "H W 3"]] = field(default_factory=dict)
    scores: dict[int, float] = field(default_factory=dict)

    @property
    def options(self) -> RequestOptions:
        """The options of the request."""
        return self.request.options


@dataclass(eq=False)
class _Inside:
    """An image in a slot: its candidate's number, the next code, and the number of partial images that were sent."""

    drawing: _Drawing
    candidate: int
    position: int
    sent: int = 0

    @property
    def left(self) -> int:
        """The number of passes that the image still needs."""
        return self.drawing.length - self.position

    def next_shown(self) -> int | None:
        """Return the position of its next partial image, if it has one."""
        shown, work = self.drawing.shown, self.drawing.job.work
        if not isinstance(work, Generate) or self.candidate >= work.shown_images or self.sent >= len(shown):
            return None
        return max(1, int(shown[self.sent] * self.drawing.length))

    @property
    def is_due(self) -> bool:
        """True if it is drawn as far as its next partial image shows."""
        place = self.next_shown()
        return place is not None and place <= self.position


class _Chunk(NamedTuple):
    """Passes that the devices run: an array that is ready after them, their number, and the time of their start."""

    started: Array
    passes: int
    begin: float


@dataclass(eq=False)
class _Decoding:
    """Images that the devices decode, each with the number of its partial image and its position."""

    images: Sequence[_Inside]
    numbers: Sequence[tuple[int, int]]
    finished: bool
    pixels: UInt8[Array, "B H W 3"]
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

    def collect(self, slots: Sequence[int]) -> Int[Array, "B I"]:
        """Return the codes of finished images, and free their slots."""
        ...

    def codes_so_far(self, slots: Sequence[int]) -> Int[Array, "B I"]:
        """Return the codes of images that may be unfinished, as ``collect`` does."""
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
    """A model of codes at work: as many images at once as its pipeline's ``batch``."""

    def __init__(self, pipeline: TextToImage | Unclip) -> None:
        self._pipeline = pipeline
        self._engine = self._new_slots()
        self._drawings: list[_Drawing] = []
        self._texts: OrderedDict[str, Float[np.ndarray, "1 E"]] = OrderedDict()
        self._inside: dict[int, _Inside] = {}
        self._chunks: deque[_Chunk] = deque()
        self._decoding: list[_Decoding] = []
        self._seconds_per_pass = CHUNK_SECONDS / MOST_PASSES
        self._last_end = 0.0
        together = self._engine.slots if pipeline.parts > 1 else math.gcd(DECODED_TOGETHER, self._engine.slots)
        self._together = 1 if pipeline.layout.platform == "cpu" and pipeline.parts == 1 else together

    @abstractmethod
    def _new_slots(self) -> ImageSlots:
        """Return empty slots."""

    @abstractmethod
    def _hold(self, request: Request, steps: int | None) -> int:
        """Hold a request's prompt, and return its number."""

    @abstractmethod
    def _length(self, steps: int | None) -> int:
        """Return the passes of an image from its first to its last."""

    def _seen(self, pixels: UInt8[np.ndarray, "H W 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an unfinished image as it is shown."""
        del position
        return pixels

    @property
    def busy(self) -> bool:
        """True if there are jobs."""
        return bool(self._drawings)

    def take(
        self, job: Job, request: Request, shown: tuple[float, ...] = (), *, steps: int | None = None,
        given: GivenRow | None = None,
    ) -> bool:  # fmt: skip
        """Take a job over, or return False if there is no room: as many images wait as there are slots.

        ``steps`` are those of a decoder, and ``given`` the codes that a transformer keeps.
        """
        waiting = sum(len(one.waiting) for one in self._drawings)
        if waiting >= self._engine.slots or not self._engine.free_contexts:
            return False
        try:
            context, text = self._hold(request, steps), self._text_vector(request)
        except Exception as error:
            job.send(Failed(error))
            return True
        drawing = _Drawing(job, request, shown, self._length(steps), context, given, text)
        drawing.waiting.extend(range(request.options.candidates))
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
        due = [slot for slot, one in self._inside.items() if slot not in done and one.is_due]
        if due:
            images = [self._inside[slot] for slot in due]
            self._decoding.append(self._decoded(self._engine.codes_so_far(due), images, finished=False))
            for one in images:
                one.sent += 1
        if done:
            images = [self._inside.pop(slot) for slot in done]
            self._decoding.append(self._decoded(self._engine.collect(done), images, finished=True))

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

    def warm(self, requests: Sequence[Request]) -> None:
        """Compile all programs by a run of requests of one image, the last of which is given up."""
        jobs = [Job("", Generate(prompt="", options=one.options), _raise_failure) for one in requests]
        for job, request in zip(jobs, requests, strict=True):
            self.take(job, request, shown=(0.5,))
        self.step()
        jobs[-1].cancel()
        while self.busy:
            self.step()

    def _text_vector(self, request: Request) -> Float[np.ndarray, "1 E"] | None:
        """Return CLIP's vector of a request's text; those of the last texts are kept."""
        ranker, text = self._pipeline.ranker, request.text
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
        for slot, (drawing, number) in zip(self._engine.insert([_image(*one) for one in coming]), coming, strict=False):
            self._inside[slot] = _Inside(drawing, number, self._engine.position(slot))
            drawing.waiting.popleft()
        for one in self._drawings:
            if not one.waiting:
                self._release(one)

    def _passes(self) -> int:
        """Return the passes until an image is finished or due to be shown, at most those of a chunk."""
        seconds = CHUNK_SECONDS if len(self._inside) == self._engine.slots else JOIN_SECONDS
        most = min(MOST_PASSES, max(1, round(seconds / max(self._seconds_per_pass, 1e-6))))
        ends = [one.left for one in self._inside.values()]
        due = [place - one.position for one in self._inside.values() if (place := one.next_shown()) is not None]
        return max(1, min([most, *ends, *(one for one in due if one > 0)]))

    def _decoded(self, codes: Int[Array, "B I"], images: Sequence[_Inside], *, finished: bool) -> _Decoding:
        """Start decoding images, and scoring them if they are finished."""
        codec, ranker, count = self._pipeline.codec, self._pipeline.ranker, len(images)
        pixels, vectors = codec.decode_first(codes.reshape(-1, *self._pipeline.grid), count, self._together), None
        if finished and ranker is not None and any(one.drawing.text is not None for one in images):
            vectors = ranker.first_image_vectors(pixels, count, self._together)
        numbers = [(one.sent, one.position) for one in images]
        return _Decoding(images, numbers, finished, pixels, vectors)

    def _send(self, decoding: _Decoding) -> None:
        """Send images as far as they are drawn, or the jobs whose images are all finished."""
        pixels = np.asarray(decoding.pixels)
        vectors = None if decoding.vectors is None else np.asarray(decoding.vectors)
        for row, (one, (number, position)) in enumerate(zip(decoding.images, decoding.numbers, strict=True)):
            drawing = one.drawing
            if drawing not in self._drawings:  # given up meanwhile
                continue
            if not decoding.finished:
                drawing.job.send(Partial(one.candidate, number, self._seen(pixels[row], position)))
                continue
            drawing.pixels[one.candidate] = pixels[row]
            if vectors is not None and drawing.text is not None:
                drawing.scores[one.candidate] = float(vectors[row] @ drawing.text[0])
            if len(drawing.pixels) == drawing.options.candidates:
                drawing.job.send(Finished(_best(drawing)))
                self._drawings.remove(drawing)


def _raise_failure(event: Event) -> None:
    """Raise the error of a job that failed."""
    if isinstance(event, Failed):
        raise event.error


def _image(drawing: _Drawing, number: int) -> SlotImage:
    """Return candidate ``number`` of a job as an image to insert."""
    assert drawing.context is not None  # it is released once no image waits
    options = drawing.options
    return SlotImage(drawing.context, options.seed, options.first + number, options, drawing.given)


def _best(drawing: _Drawing) -> list[Drawn]:
    """Return the kept images, best first."""
    options, scores = drawing.options, drawing.scores
    numbers = np.arange(options.kept)
    if scores:
        numbers = best_candidates(np.array([[scores[one] for one in range(options.candidates)]]), options.kept)[0]
    return [Drawn(drawing.pixels[int(one)], int(one), scores.get(int(one))) for one in numbers]


class BatchedRunner:
    """The slots for works of some kinds, by ``take``, and calls for all others; each has a step in turn."""

    def __init__(
        self, slots: SlotRunner, kinds: tuple[type[Work], ...], take: Callable[[Job], bool], calls: CallRunner
    ) -> None:
        self._slots, self._kinds, self._take, self._calls = slots, kinds, take, calls

    @property
    def busy(self) -> bool:
        """True if one of the two is busy."""
        return self._slots.busy or self._calls.busy

    def admit(self, job: Job) -> bool:
        """Hand a job on."""
        if not isinstance(job.work, self._kinds):
            return self._calls.admit(job)
        try:
            return self._take(job)
        except Exception as error:
            job.send(Failed(error))
            return True

    def step(self) -> None:
        """Run a step of both."""
        self._slots.step()
        self._calls.step()

    def drop(self, error: Exception) -> None:
        """End all jobs."""
        self._slots.drop(error)
        self._calls.drop(error)
