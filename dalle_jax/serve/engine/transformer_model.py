"""A transformer as a served model: its images share a running batch, and its edits are calls of their own."""

from collections.abc import Callable

from dalle_jax.pipelines.request import Request
from dalle_jax.pipelines.text_to_image import TextToImage
from dalle_jax.serve.engine.call_runner import CallRunner
from dalle_jax.serve.engine.pipeline_model import GIVEN_ROWS, PipelineModel
from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.slot_runner import SlotRunner
from dalle_jax.serve.engine.works import Edit, Failed, Generate, Vary


class TransformerModel(PipelineModel):
    """A transformer with as many slots as its pipeline's ``batch``."""

    def __init__(self, name: str, pipeline: TextToImage) -> None:
        super().__init__(name, pipeline, partials=True)
        self._transformer = pipeline
        self._slots = SlotRunner(pipeline, pipeline.batch)
        self.runner = TransformerRunner(self._slots, self._take, CallRunner(self.do))

    def warm(self) -> None:
        """Compile the programs of the slots, and the calls of an edit and a variation."""
        self._slots.warm(self.prompt(self.any_prompt()))
        self.warm_edits()

    def _take(self, job: Job) -> bool:
        """Hand a job to the slots, or return False if they have no room."""
        work = job.work
        try:
            if isinstance(work, Generate):
                return self._slots.take(job, self.request(work), work.shown)
            assert isinstance(work, Vary)
            request = Request(self.prompt(work.prompt or ""), work.options)
            return self._slots.take(job, request, given=self._transformer.given_top(work.image.pixels, GIVEN_ROWS))
        except Exception as error:
            job.send(Failed(error))
            return True


class TransformerRunner:
    """The slots for generations and variations, by ``take``, and calls for edits; each has a step in turn."""

    def __init__(self, slots: SlotRunner, take: Callable[[Job], bool], calls: CallRunner) -> None:
        self._slots, self._take, self._calls = slots, take, calls

    @property
    def busy(self) -> bool:
        """True if one of the two is busy."""
        return self._slots.busy or self._calls.busy

    def admit(self, job: Job) -> bool:
        """Hand a job on."""
        return self._calls.admit(job) if isinstance(job.work, Edit) else self._take(job)

    def step(self) -> None:
        """Run a step of both."""
        self._slots.step()
        self._calls.step()

    def drop(self, error: Exception) -> None:
        """End all jobs."""
        self._slots.drop(error)
        self._calls.drop(error)
