"""A transformer as a served model: its images share a running batch, and its edits are calls of their own."""

import numpy as np

from dalle_jax.arrays import UInt8
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.slot_engine import GivenRow, SlotEngine
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.serve.engine.call_runner import CallRunner
from dalle_jax.serve.engine.pipeline_model import GIVEN_ROWS, PipelineModel
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.slot_runner import BatchedRunner, SlotRunner
from dalle_jax.serve.engine.works import Generate, Vary

GREY = 128
"""The value of pixels whose codes are not drawn yet."""


class TransformerSlots(SlotRunner):
    """The slots of a transformer: a pass draws the next code of every image."""

    def __init__(self, pipeline: TextToImage) -> None:
        self._transformer = pipeline
        super().__init__(pipeline)

    def given_row(self, top: UInt8[np.ndarray, "h W 3"]) -> GivenRow:
        """Return the codes of the top of an image."""
        found = np.asarray(self._pipeline.codec.encode_device(top[None])).reshape(-1)
        codes, keep = np.zeros(self._length(None), np.int32), np.zeros(self._length(None), bool)
        codes[: len(found)], keep[: len(found)] = found, True
        return GivenRow(codes, keep)

    def _new_slots(self) -> SlotEngine:
        # guided, since a request may have guidance whatever the others have
        self._codes = self._transformer.slot_engine(guided=True, window=1)
        return self._codes

    def _hold(self, request: Request, steps: int | None) -> int:
        del steps
        prompts, negative = self._transformer.prompts, request.negative_prompt
        replaced = None if negative is None else [prompts.read([negative])[0]]
        return self._codes.hold(prompts.read([request.prompt]), replaced)[0]

    def _length(self, steps: int | None) -> int:
        del steps
        height, width = self._transformer.grid
        return height * width

    def _seen(self, pixels: UInt8[np.ndarray, "H W 3"], position: int) -> UInt8[np.ndarray, "H W 3"]:
        """Return an image whose cells of codes from ``position`` on are grey."""
        height, width = self._transformer.grid
        hidden = (np.arange(height * width) >= position).reshape(height, width)
        scale = pixels.shape[0] // height
        return np.where(np.kron(hidden, np.ones((scale, scale), bool))[..., None], np.uint8(GREY), pixels)


class TransformerModel(PipelineModel):
    """A transformer with as many slots as its pipeline's ``batch``."""

    def __init__(self, name: str, pipeline: TextToImage) -> None:
        super().__init__(name, pipeline, partials=True)
        self._transformer = pipeline
        self._slots = TransformerSlots(pipeline)
        self.runner = BatchedRunner(self._slots, (Generate, Vary), self._take, CallRunner(self.do))

    def warm(self) -> None:
        """Compile the programs of the slots, with and without a negative prompt, and those of edits."""
        prompt, options = self.prompt(self.any_prompt()), self.pipeline.options(candidates=1, keep=1)
        negative = prompt if options.guided else None
        self._slots.warm([Request(prompt, options), Request(prompt, options, negative_prompt=negative)])
        self.warm_edits()

    def _take(self, job: Job) -> bool:
        """Hand a job to the slots, or return False if they have no room."""
        work = job.work
        if isinstance(work, Generate):
            return self._slots.take(job, self.request(work), work.shown)
        assert isinstance(work, Vary)
        top = self._transformer.given_top(work.image.pixels, GIVEN_ROWS)
        request = Request(self.prompt(work.prompt or ""), work.options)
        return self._slots.take(job, request, given=self._slots.given_row(top))
