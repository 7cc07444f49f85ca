"""A model at work on a mesh of several processes: process 0 decides, and every process runs the same steps.

The engine of process 0 sees ``FollowedRunner`` in place of a model's own runner. It sends each call before it makes it,
and ``follow`` makes the same calls in the other processes. Jobs end, are cancelled and expire in process 0 alone: a
step's message names those that are given up, so all processes give them up before the same step.

    process 0      Engine → FollowedRunner → the model's runner        the images go to the clients
    process 1 …    messages → follow       → the model's runner        the images are dropped
"""

import json
import logging
from collections.abc import Callable, Mapping

from dalle_jax.serve.engine.serve_job import Job
from dalle_jax.serve.engine.served_model import Runner
from dalle_jax.serve.engine.work_bytes import work_bytes, work_of_bytes
from dalle_jax.serve.engine.works import Event

LOG = logging.getLogger(__name__)
END = b"[]\n"
"""The message after which ``follow`` returns."""


class FollowedRunner:
    """A runner whose calls other processes repeat. Its jobs are copies that know no client and no deadline."""

    def __init__(self, name: str, runner: Runner, send: Callable[[bytes], None]) -> None:
        """Take over ``runner`` of the model ``name``; ``send`` reaches all other processes."""
        self._replay, self._send = Replay(runner), send
        self._name = name
        self._offered: Job | None = None
        self._jobs: dict[int, Job] = {}
        self._next = 0

    @property
    def busy(self) -> bool:
        """True if ``step`` has something to do."""
        return self._replay.runner.busy

    def admit(self, job: Job) -> bool:
        """Offer a job in all processes; a job without room is offered again without its work."""
        content = b""
        if job is not self._offered:
            self._offered, content = job, work_bytes(job.work)
            self._next += 1
        number = self._next
        self._tell("admit", number, content)
        if not self._replay.admit(number, content, job.send):
            return False
        self._jobs[number], self._offered = job, None
        return True

    def step(self) -> None:
        """Run a step in all processes, without the jobs that are over."""
        over = [number for number, job in self._jobs.items() if job.over()]
        for number in over:
            del self._jobs[number]
        self._tell("step", over)
        self._replay.step(over)

    def drop(self, error: Exception) -> None:
        """End all jobs with an error, in all processes."""
        self._tell("drop", str(error))
        self._replay.drop(error)
        self._jobs.clear()
        self._offered = None

    def _tell(self, call: str, value: object, content: bytes = b"") -> None:
        self._send(json.dumps([self._name, call, value]).encode() + b"\n" + content)


class Replay:
    """The calls of a runner as each process makes them. Raises whatever the runner raises."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self._offered: Job | None = None
        self._jobs: dict[int, Job] = {}

    def admit(self, number: int, content: bytes, deliver: Callable[[Event], None]) -> bool:
        """Offer job ``number``; without ``content`` it is the job that was offered before."""
        if content:
            self._offered = Job("", work_of_bytes(content), deliver)
        assert self._offered is not None
        if not self.runner.admit(self._offered):
            return False
        self._jobs[number], self._offered = self._offered, None
        return True

    def step(self, over: list[int]) -> None:
        """Give up jobs, and run a step."""
        for number in over:
            self._jobs.pop(number).cancel()
        self.runner.step()

    def drop(self, error: Exception) -> None:
        """End all jobs with an error."""
        self.runner.drop(error)
        self._jobs.clear()


def follow(runners: Mapping[str, Runner], receive: Callable[[], bytes]) -> None:
    """Repeat the calls of process 0, whose messages ``receive`` waits for, until its server has ended.

    Raise the error of a step that did not fail in process 0 too, since the processes then differ.
    """
    replays = {name: Replay(runner) for name, runner in runners.items()}
    failed: Exception | None = None
    while True:
        head, _, content = receive().partition(b"\n")
        call = json.loads(head)
        if failed is not None and call[1:2] != ["drop"]:
            raise failed
        if not call:
            return
        failed = _repeat(replays[call[0]], call[1], call[2], content)


def _repeat(replay: Replay, call: str, value: object, content: bytes) -> Exception | None:
    """Make one call; return the error of a step that failed."""
    if call == "admit":
        assert isinstance(value, int)
        replay.admit(value, content, _drop_event)
    elif call == "drop":
        replay.drop(RuntimeError(str(value)))
    else:
        assert isinstance(value, list)
        try:
            replay.step(value)
        except Exception as error:
            LOG.exception("a step failed")
            return error
    return None


def _drop_event(event: Event) -> None:
    """Drop an event: process 0 delivers it."""
    del event
