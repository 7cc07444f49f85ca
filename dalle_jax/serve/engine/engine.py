"""The engine: one thread that owns the devices, and a bounded queue of jobs in front of it."""

import collections
import logging
import math
import threading
import time
from collections.abc import Sequence

from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.served_model import ServedModel
from dalle_jax.serve.engine.works import Failed
from dalle_jax.serve.serve_metrics import ServeMetrics

LOG = logging.getLogger(__name__)
FIRST_GUESS = 1.0
"""Seconds per image before any was measured."""
LONGEST_RETRY = 60
"""Longest time in seconds after which a client is told to try again; the package openai gives up above 120."""


class QueueFull(Exception):
    """A queue without room; try again after ``seconds``."""

    def __init__(self, seconds: int) -> None:
        super().__init__(f"{seconds} s")
        self.seconds = seconds


class Draining(Exception):
    """An engine that takes no new jobs."""


class Engine:
    """The models and the thread that runs them.

    At most ``queue`` jobs wait. A job is admitted to its model in the order of arrival; one that its model has no room
    for does not hold up jobs of other models.
    """

    def __init__(self, models: Sequence[ServedModel], *, queue: int = 64, metrics: ServeMetrics | None = None) -> None:
        self.models = {one.name: one for one in models}
        self.metrics = ServeMetrics() if metrics is None else metrics
        self._most = queue
        self._waiting: collections.deque[Job] = collections.deque()
        self._running: list[Job] = []
        self._change = threading.Condition()
        self._draining = self._closed = False
        self._seconds_per_image = FIRST_GUESS
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Start the thread. It first compiles what the models need."""
        self._thread.start()

    @property
    def ready(self) -> bool:
        """True after the models are compiled and until the engine drains."""
        return self._ready.is_set() and not self._draining and self._failure is None

    @property
    def alive(self) -> bool:
        """False if the thread ended by an error."""
        return self._failure is None

    def submit(self, job: Job) -> None:
        """Put a job into the queue. Raise ``QueueFull`` or ``Draining`` if it is not taken."""
        with self._change:
            if self._draining or self._failure is not None:
                raise Draining
            if len(self._waiting) >= self._most:
                raise QueueFull(self._retry_after())
            self._waiting.append(job)
            self.metrics.queue.set(len(self._waiting))
            self._change.notify()

    def drain(self) -> None:
        """Take no new jobs; those in the queue are still done."""
        self._draining = True

    def close(self, seconds: float = 10.0) -> None:
        """Drain, wait for the jobs at most ``seconds``, and end the thread after its present step."""
        self.drain()
        end = time.monotonic() + seconds
        while self._thread.is_alive() and self.unfinished() and time.monotonic() < end:
            time.sleep(0.01)
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread.is_alive():
            self._thread.join(max(0.1, end - time.monotonic()))

    def unfinished(self) -> int:
        """Return the number of jobs that wait or run."""
        with self._change:
            return len(self._waiting) + len(self._running)

    def wake(self) -> None:
        """Let the engine look at its jobs, such as after one was cancelled."""
        with self._change:
            self._change.notify()

    def _retry_after(self) -> int:
        images = sum(one.images for one in (*self._waiting, *self._running))
        return min(LONGEST_RETRY, max(1, math.ceil(images * self._seconds_per_image / 2)))

    def _run(self) -> None:
        try:
            for model in self.models.values():
                begin = time.monotonic()
                model.warm()
                LOG.info("%s: ready after %.1f s", model.name, time.monotonic() - begin)
            self._ready.set()
            while self._wait():
                self._admit()
                self._step()
        except BaseException as error:
            LOG.exception("the engine ended")
            self._failure = error
            for job in (*self._running, *self._waiting):
                job.send(Failed(RuntimeError(str(error))))
            raise

    def _wait(self) -> bool:
        """Wait until there is something to do. Return False if the engine is closed."""
        with self._change:
            while not self._closed and not self._waiting and not self._running:
                self._change.wait()
            return not self._closed

    def _admit(self) -> None:
        """Give waiting jobs to their models, in order, and drop those that are over."""
        with self._change:
            waiting = list(self._waiting)
        full: set[str] = set()
        gone: set[Job] = set()
        for job in waiting:
            if job.over():
                gone.add(job)
                self.metrics.jobs.labels(job.model, "cancelled" if job.cancelled else "expired").inc()
            elif job.model not in full:
                job.started = time.monotonic()
                if self.models[job.model].runner.admit(job):
                    self.metrics.wait.observe(job.started - job.submitted)
                    gone.add(job)
                    self._running.append(job)
                else:
                    full.add(job.model)
        if gone:
            with self._change:
                self._waiting = collections.deque(one for one in self._waiting if one not in gone)
                self.metrics.queue.set(len(self._waiting))

    def _step(self) -> None:
        """Run a step of each model that has work; an error ends the jobs of that model alone."""
        for model in self.models.values():
            if not model.runner.busy:
                continue
            begin = time.monotonic()
            self.metrics.batch.set(sum(one.images for one in self._running if one.model == model.name))
            try:
                model.runner.step()
            except Exception as error:
                LOG.exception("%s: a step failed", model.name)
                self.metrics.errors.labels("engine").inc()
                model.runner.drop(error)
            self.metrics.step.labels(model.name).observe(time.monotonic() - begin)
        self._forget()

    def _forget(self) -> None:
        """Forget the jobs that are over, and measure how long an image takes."""
        now, left = time.monotonic(), []
        for job in self._running:
            if not job.over():
                left.append(job)
                continue
            self.metrics.jobs.labels(job.model, "cancelled" if job.cancelled else "done").inc()
            if not job.cancelled and job.started is not None:
                self.metrics.images.labels(job.model).inc(job.images)
                self.metrics.job_seconds.observe(now - job.started)
                each = (now - job.started) / job.images / max(1, len(self._running))
                self._seconds_per_image += 0.2 * (each - self._seconds_per_image)
        with self._change:
            self._running = left
        if not left:
            self.metrics.batch.set(0)
