"""Goodput: the share of wall time since a run first started that was spent in steps which were kept.

Time is lost to start-up, compilation, waiting for batches, evaluation, checkpoints, steps repeated after a restart, and
the time in which the run was stopped.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from dalle_jax import storage
from dalle_jax.train.output.writers import read_lines, truncate

FILE = "goodput.jsonl"


class GoodputLog:
    """The goodput file: a line ``{"step", "time", "useful_seconds"}`` at every start and every save.

    Resuming drops the lines beyond the checkpoint, so repeated steps count once. The first line stays, as the start of
    the run. Only the first process writes the file.
    """

    def __init__(self, out: Path, step: int, clock: Callable[[], float] = time.time):
        self._path = out / FILE
        self._clock = clock
        try:
            truncate(self._path, step)
            lines = read_lines(self._path) if self._path.exists() else []
        except OSError as error:
            raise storage.cannot_write(self._path, error) from error
        self._before = (lines[-1]["useful_seconds"] or 0.0) if lines else 0.0
        self._began = (lines[0]["time"] if lines else None) or clock()
        self.record(step, 0.0)

    def record(self, step: int, useful: float) -> None:
        """Write the number of ``useful`` seconds of this process so far. It is called before a checkpoint is saved."""
        line = {"step": step, "time": self._clock(), "useful_seconds": self._before + useful}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise storage.cannot_write(self._path, error) from error

    def goodput(self, useful: float) -> float:
        """Return the goodput. ``useful`` is the number of useful seconds of this process so far."""
        return (self._before + useful) / max(self._clock() - self._began, 1e-9)
