"""A watchdog: a run in which no step finishes any more says where it stands and ends, so that it can be started again.

A hung run costs as much as one that trains and is seen by nobody. A launcher that starts the same command again after
``EXIT_CODE`` goes on from the newest checkpoint.
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
from typing import Any

import jax

EXIT_CODE = 75
"""How a stalled run ends: EX_TEMPFAIL of sysexits.h, "the user is invited to try again"."""

FOLDER = "stalls"
DISK_SECONDS = 10.0
"""How long the stacks may take to be written to the run folder: the disk may be what hangs."""

PATIENCE = 6.0
"""What is slow by nature (the first step, which compiles, evaluation, saves) may take this many times as long."""


class Phase(Enum):
    """What the loop is waiting for, in words, and whether that is slow by nature."""

    OPENING = ("the run's folder, its data and its newest checkpoint to be opened", True)
    BATCH = ("a batch from the data source", False)
    STEP = ("a step to be compiled or handed to the devices", False)
    DEVICES = ("the devices to finish the steps they were given", False)
    PROCESSES = ("the other processes of the run", False)
    EVALUATION = ("an evaluation", True)
    IMAGES = ("images to be drawn", True)
    CHECKPOINT = ("a checkpoint to be saved", True)

    def __init__(self, words: str, slow: bool):
        self.words = words
        self.slow = slow


class Patience:
    """Seconds without progress, and when they are too many. Knows no clock, so it is tested without one."""

    def __init__(self, seconds: float):
        self._seconds = seconds
        self._seen: tuple[int, int] | None = None
        self.waited = 0.0

    def allowed(self, steps: int, doing: Phase) -> float:
        """The most seconds without progress: more before the first of this process's steps, and for what is slow."""
        return self._seconds * (PATIENCE if doing.slow or not steps else 1.0)

    def passed(self, seconds: float, steps: int, changes: int, doing: Phase) -> bool:
        """Whether patience is at an end after that many more seconds.

        ``steps`` finished and ``changes`` between what is slow and what is not are counts; either growing is progress.
        """
        if (steps, changes) != self._seen:
            self._seen, self.waited = (steps, changes), 0.0
        self.waited += seconds
        return self.waited > self.allowed(steps, doing)


class Watchdog:
    """A context in which the process ends if no step finishes for ``seconds`` (never, where that is None).

    The devices run behind the loop. So that a step is known to have finished without waiting for it, the loop leaves
    one small array of each (``stepped``), and the watchdog's thread asks which of them are there. A process that was
    itself suspended has not stalled: the time between two looks counts as that of two looks at most. Native code that
    never lets go of the interpreter would stop this thread too.
    """

    def __init__(self, seconds: float | None, out: Path):
        self.doing = Phase.OPENING
        self._patience = None if seconds is None else Patience(seconds)
        self._look = 1.0 if seconds is None else min(max(seconds / 20, 0.05), 5.0)
        self._out = out
        self._marks: deque[tuple[int, Any]] = deque()
        self._changes = 0
        self._first = self._given = self._finished = 0
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

    def starts(self, step: int) -> None:
        """The loop begins after step ``step``."""
        self._first = self._given = self._finished = step
        self.waits_for(Phase.BATCH)

    def waits_for(self, doing: Phase) -> None:
        """What the loop does from now on."""
        self._changes += doing.slow or self.doing.slow
        self.doing = doing

    def stepped(self, step: int, mark: Any) -> None:
        """Step ``step`` was handed to the devices; ``mark`` is an array that it gives, or None."""
        self._given = step
        if mark is not None and self._patience is not None:
            self._marks.append((step, mark))

    def finished(self, step: int) -> None:
        """Step ``step`` is done."""
        self._finished = max(self._finished, step)

    def _watch(self) -> None:
        assert self._patience is not None
        before = time.monotonic()
        while not self._end.wait(self._look):
            now = time.monotonic()
            while self._marks and self._marks[0][1].is_ready():
                self.finished(self._marks.popleft()[0])
            seconds, steps = min(now - before, 2 * self._look), self._finished - self._first
            if self._patience.passed(seconds, steps, self._changes, self.doing):
                self._give_up(self._words(self._patience))
            before = now

    def _give_up(self, words: str) -> None:
        """Writes past Python's streams, whose locks a hung thread may hold, and to a disk that may hang too."""
        faulthandler.dump_traceback(file=2, all_threads=True)
        path = self._out / FOLDER / f"step_{self._given:08d}_process_{jax.process_index()}.txt"
        writer = threading.Thread(target=_write, args=(path, words), name="stacks", daemon=True)
        writer.start()
        writer.join(timeout=DISK_SECONDS)
        where = f"and in {path}" if not writer.is_alive() and path.exists() else f"{path} could not be written"
        line = f"dalle-jax: error: {words}. The stacks of all threads are above, {where}; the same command goes on\n"
        os.write(2, line.encode())
        os._exit(EXIT_CODE)

    def _words(self, patience: Patience) -> str:
        behind = self._given - self._finished
        return (
            f"stalled after step {self._finished}: no progress for {patience.waited:.0f} s while waiting for "
            f"{self.doing.words}"
            + (f", with {behind} steps unfinished that the devices were given" if behind else "")
            + f" (trainer.stall_seconds allows {patience.allowed(self._finished - self._first, self.doing):g} s here)"
        )


def _write(path: Path, words: str) -> None:
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.write(words + "\n\n")
            file.flush()
            faulthandler.dump_traceback(file=file, all_threads=True)
