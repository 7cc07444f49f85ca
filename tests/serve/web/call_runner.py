"""Jobs that are done one at a time, each in calls of its own: an image depends on its own request alone."""

from collections.abc import Callable

from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.works import Failed


class CallRunner:
    """A runner that does one job in a step, by ``do``, which sends the job's events."""

    def __init__(self, do: Callable[[Job], None]) -> None:
        self._do = do
        self._job: Job | None = None

    @property
    def busy(self) -> bool:
        """True if a job was admitted."""
        return self._job is not None

    def admit(self, job: Job) -> bool:
        """Take the next job."""
        if self._job is not None:
            return False
        self._job = job
        return True

    def step(self) -> None:
        """Do the job. Its errors end it alone."""
        job, self._job = self._job, None
        if job is None or job.over():
            return
        try:
            self._do(job)
        except Exception as error:
            job.send(Failed(error))

    def drop(self, error: Exception) -> None:
        """End the job."""
        if self._job is not None:
            self._job.send(Failed(error))
        self._job = None
