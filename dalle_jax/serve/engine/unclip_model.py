"""An unCLIP of codes as a served model: its images share a running batch, each at a step of its own."""

from dalle_jax.pipelines.denoising_slots import DenoisingSlots
from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.unclip import Unclip
from dalle_jax.serve.engine.call_runner import CallRunner
from dalle_jax.serve.engine.pipeline_model import PipelineModel
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.slot_runner import BatchedRunner, SlotRunner
from dalle_jax.serve.engine.works import Generate


class UnclipSlots(SlotRunner):
    """The slots of an unCLIP: a pass denoises every image by one step; an unfinished one is shown as predicted x0."""

    def __init__(self, pipeline: Unclip) -> None:
        self._unclip = pipeline
        super().__init__(pipeline)

    def _new_slots(self) -> DenoisingSlots:
        self._codes = self._unclip.denoising_slots(self._unclip.batch)
        return self._codes

    def _hold(self, request: Request, steps: int | None) -> int:
        return self._codes.hold_ids(self._unclip.prompt_ids([str(request.prompt)]), self._length(steps))

    def _length(self, steps: int | None) -> int:
        return self._unclip.steps if steps is None else steps


class UnclipModel(PipelineModel):
    """An unCLIP with as many slots as its pipeline's ``batch``."""

    def __init__(self, name: str, pipeline: Unclip) -> None:
        super().__init__(name, pipeline, partials=True)
        self._slots = UnclipSlots(pipeline)
        self.runner = BatchedRunner(self._slots, (Generate,), self._take, CallRunner(self.do))

    def warm(self) -> None:
        """Compile the programs of the slots, and those of edits and variations."""
        self._slots.warm([Request(self.any_prompt(), self.pipeline.options(candidates=1, keep=1))] * 2)
        self.warm_edits()

    def _take(self, job: Job) -> bool:
        """Hand a job to the slots, or return False if they have no room."""
        assert isinstance(job.work, Generate)
        return self._slots.take(job, self.request(job.work), job.work.shown, steps=job.work.steps)
