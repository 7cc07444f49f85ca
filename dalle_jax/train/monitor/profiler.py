"""Traces of what the devices and the host do, by ``jax.profiler``, on demand: some steps, or when a signal asks."""

import contextlib
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any, NamedTuple

import jax

from dalle_jax.config.errors import UserError

FOLDER = "profile"
SIGNAL = signal.SIGUSR1
SIGNALLED_STEPS = 5


class Steps(NamedTuple):
    """From when step ``first`` is done until step ``last`` is: ``last - first`` steps."""

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Steps":
        """``100:105``. Raises UserError."""
        first, colon, last = text.partition(":")
        if not (colon and first.isdigit() and last.isdigit() and int(first) < int(last)):
            raise UserError(
                f"--profile: expected FIRST:LAST, such as 100:105 for the 5 steps after step 100, got {text!r}"
            )
        return cls(int(first), int(last))


class Profiler:
    """A context in which the wanted steps are traced into the run folder's ``profile/``.

    SIGUSR1 asks for the next five steps, of the process that it is sent to. Nothing is written otherwise. Several
    processes have a folder each.
    """

    def __init__(self, out: Path, wanted: Steps | None, say: Callable[[str], None]):
        several = jax.process_count() > 1
        self._folder = out / FOLDER / (f"process_{jax.process_index()}" if several else "")
        self._wanted = [] if wanted is None else [wanted]
        self._say = say
        self._asked = False
        self._step = 0
        self._since: int | None = None
        self._before: Any = None

    def __enter__(self) -> "Profiler":
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(SIGNAL, self._ask)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._since is not None:  # what went wrong is to be heard of, not that its trace could not be written
            with contextlib.suppress(Exception):
                self._stop()
        if self._before is not None:
            signal.signal(SIGNAL, self._before)

    def between(self, step: int, newest: Any) -> None:
        """Before every step: ``step`` are done or on their way, and ``newest`` is an array of the last of them."""
        self._step = step
        if self._asked:
            self._asked = False
            self._wanted.append(Steps(step, step + SIGNALLED_STEPS))
        if not self._wanted:
            return
        inside = any(steps.first <= step < steps.last for steps in self._wanted)
        if inside and self._since is None:
            jax.block_until_ready(newest)  # or the trace would begin with the steps before
            jax.profiler.start_trace(self._folder)
            self._since = step
        elif not inside:
            self.ends(step, newest)

    def ends(self, step: int, newest: Any) -> None:
        """What is being traced ends with ``step``."""
        self._step = step
        if self._since is not None:
            jax.block_until_ready(newest)
            self._stop()

    def _stop(self) -> None:
        since, self._since = self._since, None
        self._wanted = [steps for steps in self._wanted if steps.last > self._step]
        jax.profiler.stop_trace()
        steps = f"the steps after {since} up to {self._step}"
        self._say(f"traced {steps} into {self._folder}, which TensorBoard's profile page opens")

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
