"""A watchdog that ends a run in which steps no longer finish, and reports where it hangs.

A hung run costs as much as one that trains. A launcher that repeats the command after ``EXIT_CODE`` resumes from the
newest checkpoint.
"""

import contextlib
import faulthandler
import os
import threading
import time
from collections import deque
from enum import Enum
from pathlib import Path
from types import TracebackType

import jax

from dalle_jax.arrays import Array

EXIT_CODE = 75
"""The exit code of a stalled run: EX_TEMPFAIL of sysexits.h, "the user is invited to try again"."""

FOLDER = "stalls"
DISK_SECONDS = 10.0
"""The time limit for writing stack traces to the run folder, since the disk may hang too."""

PATIENCE = 6.0
"""The factor by which the time limit is longer for slow work: the first step, which compiles, evaluation and saves."""


class Phase(Enum):
    """The phases of the loop, each with a description and a flag for slow work."""

    OPENING = ("the run's folder, its data and its newest checkpoint to be opened", True)
    BATCH = ("a batch from the data source", False)
    ROLLOUT = ("samples to be drawn and judged", True)
    STEP = ("a step to be compiled or handed to the devices", False)
    DEVICES = ("the devices to finish the steps they were given", False)
    PROCESSES = ("the other processes of the run", False)
    EVALUATION = ("an evaluation", True)
    IMAGES = ("images to be drawn", True)
    CHECKPOINT = ("a checkpoint to be saved", True)

    def __init__(self, description: str, slow: bool):
        self.description = description
        self.slow = slow


class Patience:
    """A count of the seconds without progress, and their limit.

    Callers pass the elapsed time, so tests need no clock.
    """

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._seen: tuple[int, int] | None = None
        self.waited = 0.0

    def allowed(self, steps: int, phase: Phase) -> float:
        """Return the limit in seconds, which is larger before the first step of this process and for slow phases."""
        return self._seconds * (PATIENCE if phase.slow or not steps else 1.0)

    def passed(self, seconds: float, steps: int, changes: int, phase: Phase) -> bool:
        """Add ``seconds`` and return True if the limit is exceeded.

        Progress resets the time: a growing count of finished ``steps``, or of ``changes`` to or from a slow phase.
        """
        if (steps, changes) != self._seen:
            self._seen, self.waited = (steps, changes), 0.0
        self.waited += seconds
        return self.waited > self.allowed(steps, phase)


class Watchdog:
    """Context manager that ends the process if no step finishes for ``seconds``. None disables it.

    Devices run asynchronously. The loop passes a small array of each step (``stepped``), and the watchdog's thread
    polls which of them are ready. A suspended process has not stalled, so the time between two polls counts as two
    intervals at most. Native code that never releases the GIL would block this thread too.
    """

    def __init__(self, seconds: float | None, out: Path):
        self.phase = Phase.OPENING
        self._patience = None if seconds is None else Patience(seconds)
        self._look = 1.0 if seconds is None else min(max(seconds / 20, 0.05), 5.0)
        self._out = out
        self._marks: deque[tuple[int, Array]] = deque()
        self._changes = 0
        self._first = self._dispatched = self._finished = 0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self._patience is not None:
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()

    def start(self, step: int) -> None:
        """Record that the loop starts after step ``step``."""
        self._first = self._dispatched = self._finished = step
        self.enter(Phase.BATCH)

    def enter(self, phase: Phase) -> None:
        """Record that the loop enters a phase."""
        self._changes += phase.slow or self.phase.slow
        self.phase = phase

    def stepped(self, step: int, mark: Array | None) -> None:
        """Record that a step was dispatched; ``mark`` is an array that it computes, or None."""
        self._dispatched = step
        if mark is not None and self._patience is not None:
            self._marks.append((step, mark))

    def finished(self, step: int) -> None:
        """Record that a step has finished."""
        self._finished = max(self._finished, step)

    def _watch(self) -> None:
        assert self._patience is not None
        before = time.monotonic()
        while not self._end.wait(self._look):
            now = time.monotonic()
            while self._marks and self._marks[0][1].is_ready():  # type: ignore[attr-defined]
                self.finished(self._marks.popleft()[0])
            seconds, steps = min(now - before, 2 * self._look), self._finished - self._first
            if self._patience.passed(seconds, steps, self._changes, self.phase):
                self._exit(self._message(self._patience))
            before = now

    def _exit(self, message: str) -> None:
        """End the process. It avoids Python's streams, whose locks a hung thread may hold, and a disk that may hang."""
        faulthandler.dump_traceback(file=2, all_threads=True)
        path = self._out / FOLDER / f"step_{self._dispatched:08d}_process_{jax.process_index()}.txt"
        writer = threading.Thread(target=_write, args=(path, message), name="stacks", daemon=True)
        writer.start()
        writer.join(timeout=DISK_SECONDS)
        where = f"and in {path}" if not writer.is_alive() and path.exists() else f"{path} could not be written"
        line = (
            f"dalle-jax: error: {message}. The stacks of all threads are above, {where}; "
            "repeat the command to resume the run\n"
        )
        os.write(2, line.encode())
        os._exit(EXIT_CODE)

    def _message(self, patience: Patience) -> str:
        behind = self._dispatched - self._finished
        return (
            f"stalled after step {self._finished}: no progress for {patience.waited:.0f} s while waiting for "
            f"{self.phase.description}"
            + (f", with {behind} dispatched steps unfinished" if behind else "")
            + f" (trainer.stall_seconds allows {patience.allowed(self._finished - self._first, self.phase):g} s here)"
        )


def _write(path: Path, message: str) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.write(message + "\n\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
