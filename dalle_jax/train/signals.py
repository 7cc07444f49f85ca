"""Ctrl-C and SIGTERM: the first asks the loop to finish its step and save, the second ends it at once.

With several processes SIGTERM is left to jax's preemption service, which tells them all, and Ctrl-C is made into one.
"""

import os
import shlex
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Any

import jax

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """A context in which ``asked`` becomes true at the first signal. Outside the main thread it does nothing."""

    def __init__(self) -> None:
        self.asked = False
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> "Interrupt":
        if threading.current_thread() is threading.main_thread():
            ours = SIGNALS if jax.process_count() == 1 else (signal.SIGINT,)
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


def command_to_go_on() -> str:
    """The command line that this process was started with: given again, it goes on."""
    return shlex.join(["python", *sys.orig_argv[1:]])
