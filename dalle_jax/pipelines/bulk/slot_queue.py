"""The images of a stream of requests in slots, and their finished codes in batches of one size.

Images take slots in the order of their prompts. Those that finish before an earlier one wait, as codes on the devices,
until the batch of their place in the order is complete. A prompt is computed once, by the transformer and by CLIP.

D images of a batch   C images in flight   P new prompts
"""

from collections import deque
from collections.abc import Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from dalle_jax.arrays import Array, Float, Int
from dalle_jax.parallel.layout import Layout
from dalle_jax.parallel.row_placement import put
from dalle_jax.pipelines.batching import power_of_two
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest
from dalle_jax.pipelines.prompts import PromptReader
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.rows.slot_image import SlotImage
from dalle_jax.pipelines.slot_engine import SlotEngine

BATCHES_IN_FLIGHT = 8
"""A slow image holds back the images of at most so many batches that began after it."""


class QueuedImage(NamedTuple):
    """Candidate ``candidate`` of a prompt, counted from its first one.

    ``number`` is that of the prompt in the job, ``context`` its number in the engine, and ``text`` the place of its
    vector for CLIP.
    """

    number: int
    request: Request
    candidate: int
    context: int
    text: int

    @property
    def ends(self) -> bool:
        """True for the last image of a prompt."""
        return self.candidate + 1 == self.request.options.candidates


class CodeBatch(NamedTuple):
    """At most D consecutive images, their codes, and the text vectors of their prompts for CLIP."""

    images: list[QueuedImage]
    codes: Int[Array, "D I"]
    texts: Float[Array, "D E"] | None


class SlotQueue:
    """Draws the codes of requests in the slots of an engine, one job at a time."""

    def __init__(
        self, engine: SlotEngine, prompts: PromptReader, ranker: ClipRanker | None, layout: Layout, batch: int
    ) -> None:
        """Yield batches of ``batch`` images; without a ``ranker`` they have no text vectors."""
        self._engine, self._prompts, self._ranker, self._batch = engine, prompts, ranker, batch
        self._capacity = BATCHES_IN_FLIGHT * max(batch, engine.slots)
        self._texts_room = self._capacity + engine.contexts
        replicated = layout.replicated
        self._put = layout.jit(_put_rows, donate_argnums=0, out_shardings=replicated)
        self._take_rows = layout.jit(_take_rows, out_shardings=replicated)
        self._codes: Array = put(layout, np.zeros((self._capacity, engine.length), np.int32), replicated)
        self._texts: Array | None = None
        if ranker is not None:
            self._texts = put(layout, np.zeros((self._texts_room, ranker.config.embed_width), np.float32), replicated)
        self._begin()

    def _begin(self) -> None:
        self._engine.clear()
        self._waiting: deque[QueuedImage] = deque()  # for a slot
        self._flying: deque[QueuedImage] = deque()  # in a slot, or finished
        self._inside: dict[int, int] = {}  # from slot to the image's number in the order
        self._finished: set[int] = set()  # images that finished before an earlier one
        self._taken = self._ready = self._read_prompts = 0  # images of yielded batches, finished images in order

    def batches(self, requests: Iterator[NumberedRequest]) -> Iterator[CodeBatch]:
        """Yield all images in order; only the last batch may have fewer than D. Read requests as slots need them."""
        self._begin()
        while self._fill(requests):
            self._collect(self._engine.advance())
            while self._ready - self._taken >= self._batch:
                yield self._next_batch(self._batch)
        if self._flying:
            yield self._next_batch(len(self._flying))

    def _fill(self, requests: Iterator[NumberedRequest]) -> int:
        """Put images into slots while there is room, and return the number of images in slots."""
        engine = self._engine
        while room := min(engine.slots - engine.busy, self._capacity - len(self._flying)):
            if not self._waiting:
                self._read(requests, room)
            new = list(islice(self._waiting, room))
            slots = engine.insert([
                SlotImage(one.context, options.seed, options.first + one.candidate, options)
                for one in new if (options := one.request.options)
            ])  # fmt: skip
            for slot in slots:
                image = self._waiting.popleft()
                self._inside[slot] = self._taken + len(self._flying)
                self._flying.append(image)
                if image.ends:
                    engine.release(image.context)
            if not slots:
                break
        return engine.busy

    def _read(self, requests: Iterator[NumberedRequest], room: int) -> None:
        """Read and compute the next prompts, as many as ``room`` images need and the engine holds."""
        new: list[NumberedRequest] = []
        while room > 0 and len(new) < self._engine.free_contexts and (one := next(requests, None)) is not None:
            new.append(one)
            room -= one.request.options.candidates
        if not new:
            return
        read = self._prompts.read
        negatives = [request.negative_prompt for _, request in new]
        negative = [None if one is None else read([one])[0] for one in negatives]
        contexts = self._engine.hold(read([request.prompt for _, request in new]), negative)
        places = [(self._read_prompts + place) % self._texts_room for place in range(len(new))]
        self._read_prompts += len(new)
        if self._ranker is not None:
            self._put_texts([request.title for _, request in new], places)
        for (number, request), context, text in zip(new, contexts, places, strict=True):
            self._waiting.extend(
                QueuedImage(number, request, candidate, context, text)
                for candidate in range(request.options.candidates)
            )

    def _put_texts(self, titles: list[str], places: list[int]) -> None:
        """Compute text vectors, a power of two of them so that few programs compile, and put them into places."""
        assert self._ranker is not None
        absent = power_of_two(len(titles)) - len(titles)
        vectors = self._ranker.text_vectors_device(self._ranker.text.encode_batch(titles + titles[-1:] * absent))
        self._texts = self._put(self._texts, np.array(places + [self._texts_room] * absent, np.int32), vectors)

    def _collect(self, slots: list[int]) -> None:
        """Move the codes of finished images from their slots to their places in the order."""
        if not slots:
            return
        numbers = [self._inside.pop(slot) for slot in slots]
        absent = [self._capacity] * (self._engine.slots - len(slots))
        places = np.array([number % self._capacity for number in numbers] + absent, np.int32)
        self._codes = self._put(self._codes, places, self._engine.collect(slots))
        self._finished.update(numbers)
        while self._ready in self._finished:
            self._finished.remove(self._ready)
            self._ready += 1

    def _next_batch(self, size: int) -> CodeBatch:
        """Return the first ``size`` images, which are finished."""
        images = [self._flying.popleft() for _ in range(size)]
        padded = images + images[-1:] * (self._batch - size)
        places = (self._taken + np.arange(self._batch, dtype=np.int32)) % self._capacity
        self._taken += size
        texts = None
        if self._texts is not None:
            texts = self._take_rows(self._texts, np.array([one.text for one in padded], np.int32))
        return CodeBatch(images, self._take_rows(self._codes, places), texts)


def _put_rows(rows: Array, places: Int[Array, " n"], new: Array) -> Array:
    """Replace rows; a place beyond the last is none."""
    return rows.at[places].set(new, mode="drop")


def _take_rows(rows: Array, places: Int[Array, " n"]) -> Array:
    """Return some rows."""
    return rows[places]
