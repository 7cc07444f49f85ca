"""A transformer's bulk sampling: draw, decode, score and keep the best, all on the devices.

The host dispatches the next blocks before it fetches one. It gets the kept images and the scores of all candidates.
"""

from collections import deque
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dalle_jax.arrays import Array, Float, Int, Key, UInt, UInt8
from dalle_jax.parallel.axes import BATCH
from dalle_jax.parallel.row_placement import put_rows
from dalle_jax.pipelines.bulk.block_prompts import BlockPrompts
from dalle_jax.pipelines.bulk.blocks import BlockRow, BlockShape, block_shape, blocks
from dalle_jax.pipelines.bulk.prompt_files import NumberedRequest, Survey
from dalle_jax.pipelines.bulk.running_best import RunningBest, keep_best
from dalle_jax.pipelines.prompts import PromptReader, TextPrompts
from dalle_jax.pipelines.ranker import ClipRanker
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.sampling.autoregressive import GivenCodes, Settings, image_keys
from dalle_jax.text.tokenizer import TextTokenizer

AHEAD = 2
"""Number of blocks that are dispatched before the results of the first of them are fetched."""


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
    """A block whose programs run: its rows and their results on the devices."""

    rows: list[BlockRow]
    scores: Float[Array, "P M"] | None
    best: RunningBest | None


class DeviceEngine:
    """Implements ``BulkEngine`` with the networks of a ``TextToImage``.

    An image is that of ``TextToImage.draw`` with the same prompt, seed and candidate.
    """

    def __init__(self, pipeline: TextToImage, survey: Survey) -> None:
        """Choose the shape of all blocks from the numbers of candidates."""
        self._pipeline = pipeline
        codes = pipeline.grid[0] * pipeline.grid[1]
        layout, prefix = pipeline.layout, pipeline.prompts.length / codes
        self.shape: BlockShape = block_shape(survey.candidates, pipeline.batch, prefix, layout.parts(BATCH))
        rows, candidates = self.shape
        self._guided, self._images_per_prompt = survey.guided, survey.images / max(1, survey.prompts)
        self._prompts = BlockPrompts(pipeline, self.shape, guided=survey.guided, negative=survey.negative)
        none = GivenCodes(jnp.zeros((rows, candidates, codes), jnp.int32), jnp.zeros((rows, codes), bool))
        self._given: GivenCodes = put_rows(layout, none)
        self._keys = layout.jit(_keys, static_argnames=("candidates",))
        self._keep_best = layout.jit(keep_best, out_shardings=layout.replicated)
        self._unscored = np.zeros((rows, candidates), np.float32)
        image = tuple(side * pipeline.codec.downsample for side in pipeline.grid)
        start = layout.jit(partial(RunningBest.none, survey.most_kept, (*image, 3)), out_shardings=layout.replicated)
        self._running = start()

    def draw(self, requests: Iterator[NumberedRequest]) -> Iterator[DrawnPrompt]:
        """Yield the result of each request, in order."""
        waiting: deque[Dispatched] = deque()
        scored: list[np.ndarray] = []  # scores of the prompt that goes on in the next block
        self._prompts.forget()
        for block in blocks(requests, self.shape):
            waiting.append(self._dispatch(block))
            if len(waiting) > AHEAD:
                yield from _fetch(waiting.popleft(), scored)
        while waiting:
            yield from _fetch(waiting.popleft(), scored)

    def flops_per_image(self) -> float | None:
        """Return the FLOPs of the products that an image takes in a full block, with its share of its prompt."""
        pipeline, (rows, candidates) = self._pipeline, self.shape
        text = jnp.asarray(pipeline.prompts.read(["any"] * rows))
        keys = image_keys(jnp.zeros(rows, jnp.uint32), candidates)
        images = rows * candidates
        prefill = pipeline.prefill_flops(text, candidates, self._guided)
        total = pipeline.sample_flops(text, keys, self._given, self._guided) - prefill
        total += prefill * candidates / self._images_per_prompt
        total += pipeline.codec.decode_flops(jnp.zeros((images, *pipeline.grid), jnp.int32))
        total += 0.0 if pipeline.ranker is None else pipeline.ranker.score_flops(images, rows)
        return total / images

    def tokenizers(self) -> dict[str, TextTokenizer]:
        """Return the text tokenizers of the transformer and of CLIP."""
        return tokenizers_of(self._pipeline.prompts, self._pipeline.ranker)

    def _dispatch(self, block: list[BlockRow]) -> Dispatched:
        """Start the programs of a block. A block of fewer rows is padded with empty copies of its last row."""
        pipeline, (rows, candidates) = self._pipeline, self.shape
        padded = block + [block[-1]] * (rows - len(block))
        options = [row.request.options for row in padded]
        first = np.array([row.first for row in padded], np.int32)
        count = np.array([row.size for row in block] + [0] * (rows - len(block)), np.int32)
        starts = first + np.array([one.first for one in options], np.int32)
        seeds = np.array([one.seed for one in options], np.uint32)
        keys = self._keys(seeds, starts, self._running.order, candidates=candidates)
        prefix, ranked = self._prompts.read(padded)
        window = pipeline.window(options[0], rows * candidates, self._guided)
        codes = pipeline.sample_device(prefix, keys, Settings.stack(options), self._given, self._guided, window)
        pixels = pipeline.codec.decode_device(codes.reshape(-1, *pipeline.grid))  # [P*M H W 3]
        scores = None
        if pipeline.ranker is not None and ranked is not None:
            scores = pipeline.ranker.scores_device(pixels, ranked)
        images = pixels.reshape(rows, candidates, *pixels.shape[1:])
        ordered = self._unscored if scores is None else scores
        self._running, best = self._keep_best(self._running, images, ordered, first, count)
        kept = best if any(row.ends for row in block) else None
        for array in (*(kept or ()), *(() if scores is None else (scores,))):
            array.copy_to_host_async()
        return Dispatched(block, scores, kept)


def _keys(
    seeds: UInt[Array, " P"], first: Int[Array, " P"], after: Float[Array, " k"], candidates: int
) -> Key[Array, "P M"]:
    """Create the keys of a block once ``after``, a result of the block before it, is there.

    A CPU would otherwise run several blocks at once, which takes the memory of all of them.
    """
    seeds, _ = jax.lax.optimization_barrier((seeds, after))
    return image_keys(seeds, candidates, first)


def _fetch(block: Dispatched, scored: list[np.ndarray]) -> Iterator[DrawnPrompt]:
    """Yield the prompts that end in a block; ``scored`` has the scores of earlier rows of its first prompt."""
    scores = None if block.scores is None else np.asarray(block.scores)
    best = None if block.best is None else block.best.fetch()
    for place, row in enumerate(block.rows):
        if scores is not None:
            scored.append(scores[place, : row.size])
        if best is not None and row.ends:
            keep = row.request.options.kept
            pixels = best.images[place, :keep].copy()  # a view would keep the whole block in memory
            every = np.concatenate(scored) if scored else None
            yield DrawnPrompt(row.number, row.request, pixels, best.candidates[place, :keep].copy(), every)
            scored.clear()
