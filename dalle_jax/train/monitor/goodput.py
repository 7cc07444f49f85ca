"""Goodput: the share of wall time since a run first began that went into steps which were kept.

What is lost to it: starting, compiling, waiting for batches, evaluation, saving, steps that were taken again after a
restart, and the time in which nothing ran at all.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path

from dalle_jax.train.output.writers import read_lines, truncate, unwritable

FILE = "goodput.jsonl"


class GoodputLog:
    """The file of it: a line at every start and every save, ``{"step", "time", "useful_seconds"}``.

    Going on from a checkpoint drops the lines beyond it, so the seconds of steps that are taken again count once. The
    first line stays: it says when the run began. Only the first process keeps one.
    """

    def __init__(self, out: Path, step: int, clock: Callable[[], float] = time.time):
        self._path = out / FILE
        self._clock = clock
        try:
            truncate(self._path, step)
            lines = read_lines(self._path) if self._path.exists() else []
        except OSError as error:
            raise unwritable(self._path, error) from error
        self._before = lines[-1]["useful_seconds"] if lines else 0.0
        self._began = lines[0]["time"] if lines else clock()
        self.record(step, 0.0)

    def record(self, step: int, useful: float) -> None:
        """Before a checkpoint is saved: ``useful`` seconds so far, of this process."""
        line = {"step": step, "time": self._clock(), "useful_seconds": self._before + useful}
        try:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
        except OSError as error:
            raise unwritable(self._path, error) from error

    def goodput(self, useful: float) -> float:
        """The share, with ``useful`` seconds so far, of this process."""
        return (self._before + useful) / max(self._clock() - self._began, 1e-9)
