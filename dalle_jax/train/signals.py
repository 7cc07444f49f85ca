"""Handling of Ctrl-C, SIGTERM and SIGHUP: the first signal stops the loop after its step, the second at once.

SIGHUP says that the terminal is gone. Under ``nohup`` it is ignored, and stays so.

With several processes, JAX's preemption service handles SIGTERM and notifies all of them; the other two are sent on as
SIGTERM.
"""

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import TypeAlias

import jax

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

Handler: TypeAlias = Callable[[int, FrameType | None], object] | int | None
"""A signal handler as ``signal.signal`` takes and returns it."""


class Interrupt:
    """A context in which the first signal sets ``asked``; it has no effect outside the main thread."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Handler] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            several = jax.process_count() > 1
            ours = [one for one in SIGNALS if not (several and one == signal.SIGTERM)]
            ours = [one for one in ours if signal.getsignal(one) != signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._handle) for number in ours}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        if jax.process_count() > 1:
            os.kill(os.getpid(), signal.SIGTERM)


def command_to_resume() -> str:
    """Return the command line of this process, which resumes the run."""
    return shlex.join(["python", *sys.orig_argv[1:]])
