"""Profiles of devices and host by ``jax.profiler``, for chosen steps or on a signal."""

import contextlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import NamedTuple

import jax

from dalle_jax.arrays import Array
from dalle_jax.config.errors import UserError
from dalle_jax.train.signals import Handler

FOLDER = "profile"
SIGNAL = signal.SIGUSR1
SIGNALLED_STEPS = 5


class Steps(NamedTuple):
    """A range of training steps: ``first`` + 1 to ``last``, both included."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Steps":
        """Parse text such as ``100:105``; raise UserError if it is malformed."""
        first, colon, last = text.partition(":")
        if not (colon and first.isdecimal() and last.isdecimal() and int(first) < int(last)):
            raise UserError(
                f"--profile: expected FIRST:LAST, such as 100:105 for the 5 steps after step 100, got {text!r}"
            )
        return cls(int(first), int(last))


class Profiler:
    """Context manager that traces the chosen steps into the folder ``profile/`` of the run.

    SIGUSR1 requests the next five steps of the process that receives it. With several processes, each has its own
    folder.
    """

    def __init__(self, out: Path, wanted: Steps | None, log: Callable[[str], None]):
        several = jax.process_count() > 1
        self._folder = out / FOLDER / (f"process_{jax.process_index()}" if several else "")
        self._wanted = [] if wanted is None else [wanted]
        self._log = log
        self._asked = False
        self._step = 0
        self._since: int | None = None
        self._before: Handler = None

    def __enter__(self) -> "Profiler":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(SIGNAL, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._since is not None:  # report the error of the run, not one of its trace
            with contextlib.suppress(Exception):
                self._stop()
        if self._before is not None:
            signal.signal(SIGNAL, self._before)

    def before_step(self, step: int, newest: Array) -> None:
        """Start or stop a trace if this is due.

        ``step`` steps have been dispatched so far, and ``newest`` is an array that the last of them computes.
        """
        self._step = step
        if self._asked:
            self._asked = False
            self._wanted.append(Steps(step, step + SIGNALLED_STEPS))
        if not self._wanted:
            return
        inside = any(steps.first <= step < steps.last for steps in self._wanted)
        if inside and self._since is None:
            jax.block_until_ready(newest)  # keep earlier steps out of the trace
            jax.profiler.start_trace(self._folder)
            self._since = step
        elif not inside:
            self.end(step, newest)

    def end(self, step: int, newest: Array) -> None:
        """Stop the current trace, if there is one, after ``step``."""
        self._step = step
        if self._since is not None:
            jax.block_until_ready(newest)
            self._stop()

    def _stop(self) -> None:
        since, self._since = self._since, None
        self._wanted = [steps for steps in self._wanted if steps.last > self._step]
        jax.profiler.stop_trace()
        steps = f"the steps after {since} up to {self._step}"
        self._log(f"traced {steps} into {self._folder}, which TensorBoard's profile page opens")

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
