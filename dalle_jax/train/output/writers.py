"""Where figures go: ``metrics.jsonl``, TensorBoard, and a line of progress. Only the first process writes."""

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dalle_jax.config.errors import UserError

METRICS_FILE = "metrics.jsonl"


class Writers:
    """The files of one run. Each call of ``figures`` adds ``{"step": 100, name: value}`` to ``metrics.jsonl``."""

    def __init__(self, out: Path, step: int):
        self._path = out / METRICS_FILE
        try:
            truncate(self._path, step)
            self._lines = self._path.open("a", encoding="utf-8")
            self._board = Board(out, step)
        except OSError as error:
            raise unwritable(out, error) from error

    def figures(self, step: int, values: Mapping[str, float]) -> None:
        """Appends and flushes, so that a killed run keeps every line but the one being written."""
        finite = {name: value if np.isfinite(value) else None for name, value in values.items()}
        try:
            self._lines.write(json.dumps({"step": step, **finite}) + "\n")
            self._lines.flush()
            self._board.scalars(step, values)
        except OSError as error:
            raise unwritable(self._path, error) from error

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An image uint8 [H W 3] for TensorBoard."""
        try:
            self._board.image(step, name, pixels)
        except OSError as error:
            raise unwritable(self._path.parent, error) from error

    def close(self) -> None:
        """Writes out what is buffered."""
        try:
            self._lines.close()
            self._board.close()
        except OSError as error:
            raise unwritable(self._path.parent, error) from error


class Board:
    """A TensorBoard event file. Written at once: tensorboardX's own thread would hang on a full disk."""

    def __init__(self, out: Path, step: int):
        from tensorboardX import event_file_writer, summary
        from tensorboardX.proto import event_pb2

        self._summary, self._protocol = summary, event_pb2
        self._events = event_file_writer.EventsWriter(str(out / "events"))
        if step:  # tells TensorBoard to drop what the same run wrote beyond the step that it goes on from
            start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
            self._write(step + 1, session_log=start)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Curves by name."""
        for name, value in values.items():
            self._write(step, summary=self._summary.scalar(name, value))
        self._events.flush()

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """An image uint8 [H W 3]."""
        self._write(step, summary=self._summary.image(name, pixels, dataformats="HWC"))
        self._events.flush()

    def close(self) -> None:
        """Closes the file."""
        self._events.close()

    def _write(self, step: int, summary: Any = None, session_log: Any = None) -> None:
        event = self._protocol.Event(wall_time=time.time(), step=step, summary=summary, session_log=session_log)
        self._events.write_event(event)


def truncate(path: Path, step: int) -> None:
    """Drops the lines beyond ``step``, which a resumed run writes again, and a last line that was cut short."""
    if not path.exists():
        return
    kept = [line for line in read_lines(path) if line["step"] <= step]
    part = path.with_suffix(".part")
    part.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
    os.replace(part, path)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a ``metrics.jsonl``."""
    lines = []
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(text))
        except json.JSONDecodeError:
            continue
    return lines


def unwritable(path: Path, error: OSError) -> UserError:
    """What to tell someone whose disk is full or whose folder is not theirs."""
    return UserError(f"cannot write {path}: {error.strerror or error}; free some space or give another --out")


class Progress:
    """A bar that is redrawn on a terminal; a plain line at every logging step otherwise."""

    def __init__(self, start: int, steps: int, stream: Any = None, silent: bool = False):
        self._stream = sys.stderr if stream is None else stream
        self._silent = silent
        self._terminal = self._stream.isatty() and not silent
        self._start, self._steps = start, steps
        self._began: tuple[int, float] | None = None
        self._drawn = 0.0
        self._note = ""

    def step(self, step: int) -> None:
        """After every step. The clock starts after the first one, so compiling does not spoil the rate."""
        now = time.monotonic()
        if self._began is None:
            self._began = (step, now)
        if self._terminal and now - self._drawn > 0.2:
            self._drawn = now
            self._write("\r\x1b[2K" + self._line(step, now, bar=True))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """The newest figures; the loss first."""
        self._note = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
        if not self._terminal:
            self._write(self._line(step, time.monotonic(), bar=False) + "\n")

    def say(self, text: str) -> None:
        """A line that stays."""
        self._write(("\r\x1b[2K" if self._terminal else "") + text + "\n")

    def close(self) -> None:
        """Leaves the last bar standing."""
        if self._terminal and self._drawn:
            self._write("\n")

    def _line(self, step: int, now: float, bar: bool) -> str:
        first, began = self._began or (step, now)
        rate = (step - first) / (now - began) if step > first else 0.0
        left = clock((self._steps - step) / rate) if rate else "?"
        drawn = ""
        if bar:
            full = int(20 * step / max(self._steps, 1))
            drawn = "█" * full + "░" * (20 - full) + " "
        share = f"{step}/{self._steps} {100 * step / max(self._steps, 1):3.0f}%"
        return f"{drawn}{share}  {rate:.3g} steps/s  {left} left  {self._note}"

    def _write(self, text: str) -> None:
        if self._silent:
            return
        self._stream.write(text)
        self._stream.flush()


def clock(seconds: float) -> str:
    """Seconds as 1:02:03 or 2:03."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"
