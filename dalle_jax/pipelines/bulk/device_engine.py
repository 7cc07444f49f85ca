"""A transformer's bulk sampling: draw, decode, score and keep the best, all on the devices.

The host dispatches the next batches of images before it fetches one. It gets the kept images and the scores of all
candidates.
"""

import math
from collections import deque
from collections.abc import Iterator
from functools import partial
from itertools import chain
from typing import NamedTuple, Protocol, runtime_checkable

import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, UInt8
from dalle_jax.parallel.axes import BATCH
from dalle_jax.pipelines.batching import power_of_two
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, Survey
from dalle_jax.pipelines.bulk.running_best import KeptImages, RunningBest, keep_best, pick_kept
from dalle_jax.pipelines.bulk.slot_queue import CodeBatch, QueuedImage, SlotQueue
from dalle_jax.pipelines.prompts import PromptReader, TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.text.tokenizer import TextTokenizer

AHEAD = 2
"""Number of batches that are dispatched before the results of the first of them are fetched."""


class DrawnPrompt(NamedTuple):
    """The images kept for a prompt, best first, and the scores of all candidates in the order of sampling."""

    number: int
    request: Request
    pixels: UInt8[np.ndarray, "keep H W 3"]
    chosen: Int[np.ndarray, " keep"]
    scores: Float[np.ndarray, " M"] | None


@runtime_checkable
class BulkEngine(Protocol):
    """Sampling of a stream of requests, in order."""

    def draw(self, requests: Iterator[NumberedRequest]) -> Iterator[DrawnPrompt]:
        """Yield the result of each request; read requests only as they are needed."""
        ...

    def flops_per_image(self) -> float | None:
        """Return the FLOPs of the products that an image takes, or None if they are not counted."""
        ...

    def tokenizers(self) -> dict[str, TextTokenizer]:
        """Return the text tokenizers that read the prompts, by the network that they belong to."""
        ...


def tokenizers_of(prompts: PromptReader, ranker: ClipRanker | None) -> dict[str, TextTokenizer]:
    """Return the text tokenizers of a pipeline, by the network that they belong to."""
    found = {"the model": prompts.tokenizer} if isinstance(prompts, TextPrompts) else {}
    return found if ranker is None else found | {"CLIP": ranker.text}


class Dispatched(NamedTuple):
    """A batch whose programs run: its images and their results on the devices."""

    images: list[QueuedImage]
    scores: Float[Array, " D"] | None
    kept: KeptImages | None


class DeviceEngine:
    """Implements ``BulkEngine`` with the networks of a ``TextToImage``.

    An image is that of ``TextToImage.draw`` with the same prompt, seed and candidate.
    """

    def __init__(self, pipeline: TextToImage, survey: Survey) -> None:
        """Draw ``pipeline.batch`` images at a time."""
        self._pipeline, self._survey = pipeline, survey
        layout = pipeline.layout
        image = tuple(side * pipeline.codec.downsample for side in pipeline.grid)
        start = layout.jit(partial(RunningBest.none, survey.most_kept, (*image, 3)), out_shardings=layout.replicated)
        self._running: RunningBest = start()
        self._keep_best = layout.jit(keep_best, out_shardings=layout.replicated)
        self._pick_kept = layout.jit(pick_kept, out_shardings=layout.replicated)
        self._unscored = np.zeros(pipeline.batch, np.float32)
        self._queues: dict[int, SlotQueue] = {}

    def queue(self, window: int) -> SlotQueue:
        """Return the slots of the job, for so many codes per pass."""
        if window not in self._queues:
            pipeline = self._pipeline
            slots = pipeline.slot_engine(
                guided=self._survey.guided, window=window, group=group_size(self._survey, pipeline, window)
            )
            self._queues[window] = SlotQueue(slots, pipeline.prompts, pipeline.ranker, pipeline.layout, pipeline.batch)
        return self._queues[window]

    def draw(self, requests: Iterator[NumberedRequest]) -> Iterator[DrawnPrompt]:
        """Yield the result of each request, in order."""
        first = next(requests, None)
        if first is None:
            return
        options = first.request.options
        window = self._pipeline.window(options, self._pipeline.batch, self._survey.guided)
        waiting: deque[Dispatched] = deque()
        scored: list[np.ndarray] = []  # scores of the prompt that goes on in the next batch
        for batch in self.queue(window).batches(chain((first,), requests)):
            waiting.append(self._dispatch(batch))
            if len(waiting) > AHEAD:
                yield from _fetch(waiting.popleft(), scored)
        while waiting:
            yield from _fetch(waiting.popleft(), scored)

    def flops_per_image(self) -> float | None:
        """Return the FLOPs of the products that an image takes, with its share of its prompt."""
        pipeline, per_prompt = self._pipeline, self._survey.images / max(1, self._survey.prompts)
        total = pipeline.code_flops(per_prompt, self._survey.guided)
        total += pipeline.codec.decode_flops(jnp.zeros((1, *pipeline.grid), jnp.int32))
        return total + (0.0 if pipeline.ranker is None else pipeline.ranker.score_flops(per_prompt))

    def tokenizers(self) -> dict[str, TextTokenizer]:
        """Return the text tokenizers of the transformer and of CLIP."""
        return tokenizers_of(self._pipeline.prompts, self._pipeline.ranker)

    def _dispatch(self, batch: CodeBatch) -> Dispatched:
        """Start the programs of a batch."""
        pipeline, before = self._pipeline, self._running
        pixels = pipeline.codec.decode_device(batch.codes.reshape(-1, *pipeline.grid))  # [D H W 3]
        scores = None
        if pipeline.ranker is not None and batch.texts is not None:
            scores = pipeline.ranker.row_scores_device(pixels, batch.texts)
        absent = [-1] * (len(pixels) - len(batch.images))
        candidates = np.array([one.candidate for one in batch.images] + absent, np.int32)
        ordered = self._unscored if scores is None else scores
        self._running, ranked = self._keep_best(before, pixels, ordered, candidates)
        rows, ranks = ranks_of(batch.images)
        kept: KeptImages | None = None
        if len(rows):
            kept = self._pick_kept(before.images, pixels, ranked, rows, ranks)
        for array in (*(kept or ()), *(() if scores is None else (scores,))):
            array.copy_to_host_async()
        return Dispatched(batch.images, scores, kept)


def group_size(survey: Survey, pipeline: TextToImage, window: int) -> int:
    """Return the number of slots that share a prompt: the most for which no slot ever waits.

    With one code per pass all slots finish together, so groups that divide the candidates of every prompt are always
    full. With a window they do not, and each slot has a prompt of its own.
    """
    return 1 if window > 1 else math.gcd(pipeline.batch // pipeline.layout.parts(BATCH), *survey.candidates)


def ranks_of(images: list[QueuedImage]) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Return the row and the rank of each image that is kept for the prompts that end in a batch.

    Their number is rounded up to a power of two, so that few programs compile.
    """
    places = [(row, rank) for row, one in enumerate(images) if one.ends for rank in range(one.request.options.kept)]
    padded = places + places[-1:] * (power_of_two(len(places)) - len(places)) if places else []
    rows, ranks = np.array(padded, np.int32).reshape(-1, 2).T
    return rows, ranks


def _fetch(batch: Dispatched, scored: list[np.ndarray]) -> Iterator[DrawnPrompt]:
    """Yield the prompts that end in a batch; ``scored`` has the scores of earlier images of its first prompt."""
    scores = None if batch.scores is None else np.asarray(batch.scores)
    begin = place = 0
    for row, image in enumerate(batch.images):
        if not image.ends:
            continue
        assert batch.kept is not None
        numbers, pixels = np.asarray(batch.kept.candidates), np.asarray(batch.kept.images)
        options = image.request.options
        chosen = slice(place, place + options.kept)
        every = None if scores is None else np.concatenate([*scored, scores[begin : row + 1]])
        # A view would keep the whole batch in memory.
        yield DrawnPrompt(image.number, image.request, pixels[chosen].copy(), numbers[chosen].copy(), every)
        scored.clear()
        begin, place = row + 1, place + options.kept
    if scores is not None and begin < len(batch.images):
        scored.append(scores[begin : len(batch.images)])
